"""The site's views: WebSocket, stream, long-poll, events, and what publishes to them."""

# Django and these libraries bring no types
# mypy: disable-error-code="import-untyped,misc,untyped-decorator"

from django.http import HttpRequest, HttpResponse, JsonResponse
from django.urls import include, path
from django_eventstream import send_event
from django_eventstream.channelmanager import DefaultChannelManager
from django_grip import publish, set_hold_longpoll, set_hold_stream, websocket_only
from gripcontrol import HttpResponseFormat, HttpStreamFormat, WebSocketMessageFormat


class Channels(DefaultChannelManager):
    """Events of channels whose name begins with `kept` are stored, for streams to recover them."""

    def is_channel_reliable(self, channel: str) -> bool:
        return channel.startswith("kept")


@websocket_only
def websocket(request: HttpRequest) -> None:
    socket = request.wscontext
    if socket.is_opening():
        socket.accept()
        socket.subscribe(request.GET["channel"])
        socket.meta["user"] = request.GET.get("user", "")
    while socket.can_recv():
        message = socket.recv()
        if message is None:
            socket.close(socket.close_code)
            break
        if message == "who":
            socket.send(f"{socket.meta['user']} by {socket.id}")
        elif isinstance(message, bytes):
            socket.send_binary(message)
        else:
            socket.send(message)


def stream(request: HttpRequest) -> HttpResponse:
    set_hold_stream(request, request.GET["channel"], "\n", 20)
    return HttpResponse("start\n", content_type="text/plain")


def poll(request: HttpRequest) -> HttpResponse:
    set_hold_longpoll(request, request.GET["channel"], 30)
    return HttpResponse("nothing\n", content_type="text/plain")


def grip(request: HttpRequest) -> HttpResponse:
    return JsonResponse({"proxied": request.grip.proxied, "signed": request.grip.signed})


def publish_all(request: HttpRequest) -> HttpResponse:
    text = request.body.decode()
    formats = [
        HttpStreamFormat(f"{text}\n"),
        HttpResponseFormat(body=f"{text}\n"),
        WebSocketMessageFormat(text),
    ]
    publish(request.GET["channel"], formats, blocking=True)
    return HttpResponse("published\n")


def send(request: HttpRequest) -> HttpResponse:
    send_event(request.GET["channel"], "message", {"text": request.body.decode()})
    return HttpResponse("sent\n")


urlpatterns = [
    path("websocket", websocket),
    path("stream", stream),
    path("poll", poll),
    path("grip", grip),
    path("publish", publish_all),
    path("send", send),
    path("events/", include("django_eventstream.urls")),
]
