"""The composition root.

Makes every part from the configuration, starts them, and stops them in order.
"""

import asyncio
import logging
import os
import resource
import signal
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import zmq

from gripproxy import routesfile
from gripproxy.accesslog import AccessLog
from gripproxy.backend.headers import HeaderRules, HeaderTransform
from gripproxy.backend.pool import Limits, Pool
from gripproxy.clients.connection import ClientConnection
from gripproxy.clients.front import ClientLimits, Front, Turnstile
from gripproxy.clients.listener import Gate, Listener, bind_tcp, bind_unix
from gripproxy.clients.routing import Routing
from gripproxy.clients.tls import Certificates
from gripproxy.config import Config
from gripproxy.control.http import ControlLimits, ControlServer, listen
from gripproxy.control.zmq import PullInput, SubInput
from gripproxy.deadlines import Deadlines
from gripproxy.errors import ConfigError, KeyFormatError
from gripproxy.grip import signature
from gripproxy.hub.registry import Registry
from gripproxy.hub.sequencer import Sequencer
from gripproxy.logs import Logs, limited
from gripproxy.publishing import PublishDoor, PublishLimits
from gripproxy.routes import Route, RouteTable
from gripproxy.routesfile import Complaint
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
        self._signers: dict[tuple[str, str], Callable[[], bytes] | None] = {}
        self._routes_seen: tuple[int, int, int] | None = None
        self._reload_timer: asyncio.TimerHandle | None = None
        self._tick_timer: asyncio.TimerHandle | None = None
        access = AccessLog(
            log_from=config.proxy.log_from, log_user_agent=config.proxy.log_user_agent
        )
        overflow_log = limited(logging.getLogger("gripproxy.hub").warning, self._loop.time)
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
            overflow_log,
        )
        open_max = config.proxy.max_open_requests
        self._front = Front(
            loop=self._loop,
            deadlines=self._deadlines,
            limits=client_limits(config),
            routing=self._load_routes(),
            pool=self._pool,
            gate=self._gate,
            registry=registry,
            sequencer=sequencer,
            stats=self._stats,
            access=access,
            overflow_log=overflow_log,
            debug=config.proxy.debug,
            cross_origin=config.proxy.auto_cross_origin,
            accept_forwarded_proto=config.proxy.accept_x_forwarded_protocol,
            accept_pushpin_route=config.proxy.accept_pushpin_route,
            turnstile=None if open_max is None else Turnstile(self._loop, open_max),
            upstream_key=self._load_key(config.proxy.upstream_key, "upstream_key"),
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
        self._logs.reopen()
        self._front.routing = self._load_routes(keep=self._front.routing)

    # Starting and stopping.

    async def _start(self) -> None:
        raise_descriptor_limit()
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
        """The directory of ipc sockets, if any of ours is in it."""
        handler, rundir = self._config.handler, self._config.global_.rundir
        if any(
            spec.startswith(f"ipc://{rundir}")
            for spec in (handler.push_in_spec, *handler.push_in_sub_specs)
        ):
            try:
                Path(rundir).mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise ConfigError(f"cannot make rundir: {error.strerror}", rundir) from error

    def _tick(self) -> None:
        self._tick_timer = self._loop.call_later(_TICK, self._tick)
        self._door.tick(self._loop.time())
        self._watch_routes()

    # Routes.

    def _watch_routes(self) -> None:
        seen = self._stat_routes()
        if seen != self._routes_seen:
            self._routes_seen = seen
            log.info("routes file changed, reloading")
            if self._reload_timer is not None:
                self._reload_timer.cancel()
            self._reload_timer = self._loop.call_later(_RELOAD_DELAY, self._reload_routes)

    def _reload_routes(self) -> None:
        self._reload_timer = None
        self._front.routing = self._load_routes(keep=self._front.routing)

    def _stat_routes(self) -> tuple[int, int, int] | None:
        """What changes when the routes file does."""
        path = self._config.proxy.routesfile
        if self._config.routes or path is None:
            return None
        try:
            found = path.stat()
        except OSError:
            return None
        return found.st_ino, found.st_mtime_ns, found.st_size

    def _load_routes(self, keep: Routing | None = None) -> Routing:
        """The routes of the command line or the file; `keep` when the file cannot be read.

        Raises ConfigError when there is nothing to keep.
        """
        self._routes_seen = self._stat_routes()
        try:
            table, complaints = load_routes(self._config)
        except ConfigError as error:
            if keep is None:
                raise
            log.warning("%s; the routes stay as they were", error)
            return keep
        for complaint in complaints:
            log.warning("%s", complaint)
        log.info("routes loaded with %d entries", len(table.routes))
        self._signers.clear()
        transforms = {
            id(route): HeaderTransform(self._header_rules(route)) for route in table.routes
        }
        return Routing(table, transforms)

    def _header_rules(self, route: Route) -> HeaderRules:
        proxy = self._config.proxy
        set_proto = proxy.set_x_forwarded_protocol
        names = {
            "true": (b"X-Forwarded-Proto", b"X-Forwarded-Protocol"),
            "proto-only": (b"X-Forwarded-Proto",),
        }
        issuer = route.sig_iss if route.sig_iss is not None else proxy.sig_iss
        key_text = route.sig_key if route.sig_key is not None else proxy.sig_key
        return HeaderRules(
            replace=route.headers,
            keep_originals=route.orig_headers,
            originals_need_mark=frozenset(name.encode() for name in proxy.orig_headers_need_mark),
            drop_pushpin_route=proxy.accept_pushpin_route,
            cdn_loop=proxy.cdn_loop.encode(),
            drop_forwarded_proto=set_proto != "none" or proxy.accept_x_forwarded_protocol,
            add_forwarded_proto=names.get(set_proto, ()),
            forwarded_for=proxy.x_forwarded_for,
            forwarded_for_trusted=proxy.x_forwarded_for_trusted,
            grip=not route.no_grip,
            sign=self._signer(issuer, key_text),
        )

    def _signer(self, issuer: str, key_text: str) -> Callable[[], bytes] | None:
        """What signs requests, or None: they go unsigned."""
        identity = (issuer, key_text)
        if identity not in self._signers:
            key = self._load_key(key_text, "sig_key") if issuer else None
            self._signers[identity] = (
                None if key is None else signing(signature.Signer(key, issuer))
            )
        return self._signers[identity]

    def _load_key(self, text: str, name: str) -> signature.Key | None:
        try:
            return signature.load_key(text, self._config.base_dir)
        except KeyFormatError as error:
            log.error("%s: %s; requests are taken as if it were not set", name, error)
            return None


def load_routes(config: Config) -> tuple[RouteTable, list[Complaint]]:
    """The routes that `config` names, and what is wrong with single lines. Raises ConfigError."""
    if config.routes:
        return routesfile.parse("\n".join(config.routes), "--route", Path.cwd())
    if config.proxy.routesfile is None:
        raise ConfigError("no routes: set routesfile in [proxy], or use --route", config.path)
    return routesfile.load(config.proxy.routesfile)


def signing(signer: signature.Signer) -> Callable[[], bytes]:
    """The token of the moment, by the wall clock."""
    return lambda: signer.token(time.time())


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
    )


def publish_limits(config: Config) -> PublishLimits:
    """Publishing's share of the configuration."""
    handler = config.handler
    return PublishLimits(
        queue_max=handler.publish_queue_max,
        rate=handler.message_rate or 0,
        hwm=handler.message_hwm or 0,
        block_size=handler.message_block_size or 0,
    )


def raise_descriptor_limit() -> None:
    """Let this process open as many descriptors as the system allows it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
