"""The composition root.

Makes every part from the configuration, starts them, and stops them in order.
"""

import asyncio
import logging
import os
import resource
import signal
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

import zmq

from gripproxy.accesslog import AccessLog
from gripproxy.backend.pool import Limits, Pool
from gripproxy.clients.connection import ClientConnection
from gripproxy.clients.front import ClientLimits, Front, Turnstile
from gripproxy.clients.listener import Gate, Listener, bind_tcp, bind_unix
from gripproxy.clients.tls import Certificates
from gripproxy.config import Config
from gripproxy.control.http import ControlLimits, ControlServer, listen
from gripproxy.control.zmq import PullInput, SubInput
from gripproxy.deadlines import Deadlines
from gripproxy.errors import ConfigError
from gripproxy.grip.sockjs import IframePage
from gripproxy.hub.registry import Registry
from gripproxy.hub.sequencer import Sequencer
from gripproxy.logs import Logs, limited
from gripproxy.publishing import PublishDoor, PublishLimits
from gripproxy.routesource import RouteSource, load_key
from gripproxy.stats import Stats

log = logging.getLogger("gripproxy")

# Seconds between a change of the routes file being seen and the reload, so that an editor can
# finish.
_RELOAD_DELAY = 1.0
_TICK = 1.0


class App:
    """A whole gripproxy in one process."""

    def __init__(self, config: Config, logs: Logs) -> None:
        self._config = config
        self._logs = logs
        self._stopping: asyncio.Event = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._stats = Stats()
        self._deadlines = Deadlines(self._loop)
        self._routes = RouteSource(config)
        self._drops_reported = 0
        self._reload_timer: asyncio.TimerHandle | None = None
        self._tick_timer: asyncio.TimerHandle | None = None
        access = AccessLog(
            log_from=config.proxy.log_from, log_user_agent=config.proxy.log_user_agent
        )
        warn = limited(logging.getLogger("gripproxy.hub").warning, self._loop.time)
        registry = Registry(config.handler.subscription_linger)
        sequencer = Sequencer(
            id_cache_ttl=config.handler.id_cache_ttl,
            message_wait=config.handler.message_wait / 1000,
        )
        registry.on_last = sequencer.unsubscribe
        self._registry, self._sequencer = registry, sequencer
        self._pool = Pool(self._loop, self._deadlines, pool_limits(config))
        self._gate = Gate(self._loop, config.runner.client_maxconn)
        self._door = PublishDoor(
            self._loop,
            registry,
            sequencer,
            publish_limits(config),
            self._stats,
            access,
            warn,
        )
        open_max = config.proxy.max_open_requests
        self._front = Front(
            loop=self._loop,
            deadlines=self._deadlines,
            limits=client_limits(config),
            routing=self._routes.load(),
            pool=self._pool,
            gate=self._gate,
            registry=registry,
            sequencer=sequencer,
            stats=self._stats,
            access=access,
            warn=warn,
            debug=config.proxy.debug,
            cross_origin=config.proxy.auto_cross_origin,
            allow_compression=config.runner.allow_compression,
            sockjs_page=IframePage(config.proxy.sockjs_url),
            accept_forwarded_proto=config.proxy.accept_x_forwarded_protocol,
            accept_pushpin_route=config.proxy.accept_pushpin_route,
            turnstile=None if open_max is None else Turnstile(self._loop, open_max),
            upstream_key=load_key(config, "upstream_key", config.proxy.upstream_key),
        )
        self._control: ControlServer | None = None
        self._inputs: list[PullInput | SubInput] = []
        self._zmq: zmq.Context[zmq.Socket[bytes]] | None = None

    async def run(self) -> None:
        """Serve until a signal says stop. Raises ConfigError when something cannot be started."""
        try:
            await self._start()
            await self._stopping.wait()
            log.info("stopping...")
        finally:
            await self._stop()
        log.info("stopped")

    def stop(self) -> None:
        """End `run`; a second call ends the process at once."""
        if self._stopping.is_set():
            os._exit(1)
        self._stopping.set()

    def reload(self) -> None:
        """Open the log anew and load the routes, without touching a connection."""
        log.info("reloading")
        try:
            self._logs.reopen()
        except ConfigError as error:
            log.warning("%s; the log goes on where it was", error)
        self._reload_routes()

    # Starting and stopping.

    async def _start(self) -> None:
        self._loop.set_exception_handler(log_failure)
        raise_descriptor_limit()
        log.info("configuration: %s", self._config.path or "built-in settings")
        self._start_control()
        self._listen()
        for number in (signal.SIGTERM, signal.SIGINT):
            self._loop.add_signal_handler(number, self.stop)
        self._loop.add_signal_handler(signal.SIGHUP, self.reload)
        await self._gate.open()
        self._tick()
        log.info("started")

    async def _stop(self) -> None:
        for timer in (self._reload_timer, self._tick_timer):
            if timer is not None:
                timer.cancel()
        await self._gate.close()
        if self._control is not None:
            await self._control.close()
        for source in self._inputs:
            source.close()
        self._door.close()
        self._front.stopping = True
        for connection in tuple(self._gate.connections):
            if isinstance(connection, ClientConnection):
                connection.transport.abort()
        await self._pool.close()
        self._deadlines.close()
        if self._zmq is not None:
            self._zmq.term()

    def _listen(self) -> None:
        runner, front = self._config.runner, self._front
        for address in runner.http_port:
            listener = bind_tcp(address)
            self._gate.listeners.append(
                Listener(self._loop, listener, partial(ClientConnection, front, False))
            )
        if runner.https_ports and not any(runner.certs_dir.glob("*.crt")):
            log.warning("https_ports: there is no certificate in %s", runner.certs_dir)
        for address in runner.https_ports:
            context = Certificates(runner.certs_dir, address.port).context
            listener = bind_tcp(address)
            self._gate.listeners.append(
                Listener(self._loop, listener, partial(ClientConnection, front, True), context)
            )
        for local in runner.local_ports:
            listener = bind_unix(local)
            self._gate.listeners.append(
                Listener(self._loop, listener, partial(ClientConnection, front, False))
            )

    def _start_control(self) -> None:
        handler = self._config.handler
        self._make_rundir()
        if handler.push_in_http is not None:
            address = handler.push_in_http
            limits = ControlLimits(
                headers_max=handler.push_in_http_max_headers_size,
                body_max=handler.push_in_http_max_body_size,
                connections_max=handler.push_in_http_maxconn,
            )
            self._control = ControlServer(
                listen(address.host, address.port), self._door, self._deadlines, limits
            )
            self._control.start()
        if not handler.push_in_spec and not handler.push_in_sub_specs:
            return
        context = self._zmq = zmq.Context()
        if handler.push_in_spec:
            self._inputs.append(
                PullInput(
                    context, handler.push_in_spec, self._door, ipc_file_mode=handler.ipc_file_mode
                )
            )
        if handler.push_in_sub_specs:
            sub = SubInput(
                context,
                handler.push_in_sub_specs,
                self._door,
                connect=handler.push_in_sub_connect,
                ipc_file_mode=handler.ipc_file_mode,
            )
            self._inputs.append(sub)
            self._registry.on_first = sub.subscribe
            self._registry.on_last = partial(self._channel_ended, sub)
        for source in self._inputs:
            source.start()

    def _channel_ended(self, sub: SubInput, channel: str) -> None:
        self._sequencer.unsubscribe(channel)
        sub.unsubscribe(channel)

    def _make_rundir(self) -> None:
        """The directory of Unix sockets, if any of ours is in it."""
        config = self._config
        rundir = Path(config.global_.rundir)
        specs = (config.handler.push_in_spec, *config.handler.push_in_sub_specs)
        sockets = [Path(spec.removeprefix("ipc://")) for spec in specs if spec.startswith("ipc://")]
        sockets += [local.path for local in config.runner.local_ports]
        if any(path.is_relative_to(rundir) for path in sockets):
            try:
                rundir.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise ConfigError(f"cannot make rundir: {error.strerror}", rundir) from error

    def _tick(self) -> None:
        self._tick_timer = self._loop.call_later(_TICK, self._tick)
        self._door.tick(self._loop.time())
        self._watch_routes()
        self._report_drops()

    def _report_drops(self) -> None:
        """Say what was lost, whenever that has grown.

        Single losses are warned of where they happen.
        """
        drops = Counter(self._stats.drops)
        drops.update(self._sequencer.drops)
        drops["id-cache-full"] += self._sequencer.ids_evicted
        drops["invalid-message"] += sum(source.invalid for source in self._inputs)
        if drops.total() != self._drops_reported:
            self._drops_reported = drops.total()
            counts = " ".join(
                f"{reason}={count}" for reason, count in sorted(drops.items()) if count
            )
            log.info("dropped since the start: %s", counts)

    # Routes.

    def _watch_routes(self) -> None:
        if self._routes.changed():
            log.info("routes file changed, reloading")
            if self._reload_timer is not None:
                self._reload_timer.cancel()
            self._reload_timer = self._loop.call_later(_RELOAD_DELAY, self._reload_routes)

    def _reload_routes(self) -> None:
        self._reload_timer = None
        try:
            self._front.routing = self._routes.load()
        except ConfigError as error:
            log.warning("%s; the routes stay as they were", error)


def pool_limits(config: Config) -> Limits:
    """The pool's share of the configuration."""
    proxy, runner = config.proxy, config.runner
    return Limits(
        connect_timeout=proxy.backend_connect_timeout,
        response_timeout=proxy.backend_response_timeout,
        inactivity_timeout=proxy.backend_inactivity_timeout,
        connections_max=proxy.backend_maxconn,
        waiting_max=proxy.backend_queue_max,
        waiting_timeout=proxy.backend_queue_timeout,
        idle_timeout=proxy.backend_idle_timeout,
        idle_max=proxy.backend_idle_max,
        dns_ttl=proxy.dns_ttl,
        head_max=runner.client_buffer_size,
    )


def client_limits(config: Config) -> ClientLimits:
    """The clients' share of the configuration."""
    runner = config.runner
    return ClientLimits(
        head_max=runner.client_buffer_size,
        queue_bytes=runner.client_queue_bytes,
        queue_total_bytes=runner.client_queue_total_bytes,
        drop_when_full=runner.client_queue_full == "drop",
        pipeline_bytes=runner.client_pipeline_bytes,
        idle_timeout=runner.client_idle_timeout,
        inactivity_timeout=runner.client_inactivity_timeout,
        subscriptions_max=config.handler.connection_subscription_max,
        ws_queue_bytes=runner.ws_queue_bytes,
        ws_inflate_max=runner.ws_inflate_max,
        ws_close_timeout=runner.ws_close_timeout,
        sockjs_sessions_max=runner.sockjs_sessions_max,
    )


def publish_limits(config: Config) -> PublishLimits:
    """Publishing's share of the configuration."""
    handler = config.handler
    return PublishLimits(
        queue_max=handler.publish_queue_max,
        queue_bytes=handler.publish_queue_bytes,
        rate=handler.message_rate or 0,
        hwm=handler.message_hwm or 0,
        block_size=handler.message_block_size or 0,
    )


def log_failure(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Put what a callback or a task failed with into the log, with its traceback."""
    error = context.get("exception")
    log.error("internal error: %s", context.get("message"), exc_info=error)


def raise_descriptor_limit() -> None:
    """Let this process open as many descriptors as the system allows it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
