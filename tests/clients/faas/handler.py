"""A function for AWS Lambda with faas-grip, as its documentation shows one."""

# mypy: disable-error-code="import-not-found,import-untyped"

from typing import Any

from faas_grip import lambda_get_websocket, publish
from gripcontrol import WebSocketMessageFormat

Json = dict[str, Any]


def handler(event: Json, context: object) -> Json:
    try:
        ws = lambda_get_websocket(event)
    except ValueError:
        text = "Not a WebSocket-over-HTTP request\n"
        return {"statusCode": 400, "headers": {"Content-Type": "text/plain"}, "body": text}
    if ws.is_opening():
        ws.accept()
        ws.subscribe(event["queryStringParameters"]["channel"])
    while ws.can_recv():
        message = ws.recv()
        if message is None:
            ws.close()
            break
        if message.startswith("all "):
            publish(event["queryStringParameters"]["channel"], WebSocketMessageFormat(message))
        else:
            ws.meta["seen"] = str(int(ws.meta.get("seen", 0)) + 1)
            ws.send(f"{ws.meta['seen']} {message}")
    response: Json = ws.to_response()
    return response
