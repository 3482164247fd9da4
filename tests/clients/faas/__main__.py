"""Serve the function as AWS API Gateway does: each HTTP request becomes an event."""

import base64
import os
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qsl, urlsplit

from tests.clients.faas.handler import handler


class Gateway(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = 65536  # headers and body in one write

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        url = urlsplit(self.path)
        event = {
            "httpMethod": self.command,
            "path": url.path,
            "headers": dict(self.headers),
            "queryStringParameters": dict(parse_qsl(url.query)) or None,
            "body": base64.b64encode(body).decode(),
            "isBase64Encoded": True,
        }
        result = handler(event, None)
        content = result["body"].encode()
        if result.get("isBase64Encoded"):
            content = base64.b64decode(content)
        self.send_response(result["statusCode"])
        for name, value in result["headers"].items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    do_GET = do_POST


ThreadingHTTPServer(("127.0.0.1", int(os.environ["PORT"])), Gateway).serve_forever()
