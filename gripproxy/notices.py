"""What the operator should hear about a configuration that can be used."""

import difflib
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

from gripproxy import values
from gripproxy.ini import Entry
from gripproxy.settings import SECTIONS, Handler, Proxy, readers

# Keys of features that this version does not have, with the value that asks for nothing.
NOT_YET: Mapping[tuple[str, str], object] = {
    ("global", "stats_connection_ttl"): 120,
    ("global", "stats_connection_send"): True,
    ("proxy", "workers"): 1,
    ("proxy", "prometheus_port"): None,
    ("proxy", "prometheus_prefix"): "",
    ("handler", "stats_spec"): "",
    ("handler", "command_spec"): "",
    ("handler", "state_spec"): "",
    ("handler", "share_all"): False,
    ("handler", "update_on_first_subscription"): False,
    ("handler", "stats_subscription_ttl"): 60,
    ("handler", "stats_report_interval"): 10,
    ("handler", "stats_format"): "tnetstring",
    ("handler", "prometheus_port"): None,
    ("handler", "prometheus_prefix"): "",
}

# Keys that tell Pushpin how to divide itself into processes, or that it has dropped.
_MEANINGLESS = {
    "global": frozenset[str](),
    "runner": frozenset(
        ("services", "logdir", "mongrel2_bin", "m2sh_bin", "zurl_bin", "condure_bin")
    ),
    "proxy": frozenset(
        (
            "ipc_file_mode",
            "stats_connections_max_ttl",
            "stats_report_interval",
            "stats_spec",
            "command_spec",
            "updates_check",
            "organization_name",
        )
    ),
    "handler": frozenset[str](),
}
_INTERNAL_SPEC = re.compile(r"(?:condure|connmgr|m2a|zurl|handler|proxy|intreq)_[a-z0-9_]+_specs?")

# Other names of keys: of older versions, or for a single item.
ALIASES = {
    ("runner", "rundir"): ("global", "rundir"),
    ("handler", "push_in_sub_spec"): ("handler", "push_in_sub_specs"),
    ("handler", "push_in_max_headers_size"): ("handler", "push_in_http_max_headers_size"),
    ("handler", "push_in_max_body_size"): ("handler", "push_in_http_max_body_size"),
}


class Notice(NamedTuple):
    """Something to tell the operator at the start."""

    level: Literal["info", "warning"]
    text: str


def judge_keys(entries: Iterable[Entry]) -> list[Notice]:
    """What to say about the names in one file."""
    notices: list[Notice] = []
    meaningless: dict[str, None] = {}
    seen: dict[tuple[str, str], int] = {}
    strange_sections: set[str] = set()
    source: Path | None = None
    for entry in entries:
        source, section, name = entry.source, entry.section, entry.key
        reason = ""
        if section not in SECTIONS:
            if section not in strange_sections:
                strange_sections.add(section)
                reason = _unknown_section(section)
        elif _is_meaningless(section, name):
            meaningless[f"{section}.{name}"] = None
        elif (section, name) not in ALIASES and name not in readers(section):
            reason = _unknown_key(section, name)
        elif (section, name) in seen:
            reason = f"{name} is set again, which replaces line {seen[section, name]}"
        seen[section, name] = entry.line
        if reason:
            notices.append(Notice("warning", f"{source}:{entry.line}: {reason}"))
    # All of internal.conf means nothing here, which is not worth a line at every start.
    if meaningless and source is not None and source.name != "internal.conf":
        names = ", ".join(meaningless)
        notices.append(Notice("info", f"{source}: these mean nothing to gripproxy: {names}"))
    return notices


def judge_values(
    proxy: Proxy, handler: Handler, given: Mapping[str, Mapping[str, Any]]
) -> list[Notice]:
    """What to say about what was set; `given` holds the values of the keys in the files."""
    notices = []
    asked = [
        f"{section}.{name}"
        for (section, name), nothing in NOT_YET.items()
        if given[section].get(name, nothing) != nothing
    ]
    if asked:
        notices.append(Notice("info", f"not in this version yet: {', '.join(asked)}"))
    bounds = (("message_rate", handler.message_rate), ("message_hwm", handler.message_hwm))
    caps = [f"{name}={value}" for name, value in bounds if value is not None]
    if caps:
        reason = "deliveries above that are delayed or dropped; without these keys none are"
        notices.append(Notice("warning", f"[handler] {', '.join(caps)}: {reason}"))
    exposed = _exposed_inputs(handler)
    if exposed:
        reason = "other machines can publish here, and nothing asks who they are"
        notices.append(Notice("warning", f"[handler] {', '.join(exposed)}: {reason}"))
    if proxy.sig_key == "changeme":
        reason = "is the key of the sample file, with which anybody can sign as this proxy"
        notices.append(Notice("warning", f"[proxy] sig_key=changeme {reason}"))
    return notices


def _is_meaningless(section: str, name: str) -> bool:
    if name in _MEANINGLESS[section]:
        return True
    return section in ("proxy", "handler") and _INTERNAL_SPEC.fullmatch(name) is not None


def _unknown_section(section: str) -> str:
    if not section:
        return "settings before the first [section] are ignored"
    return f"there is no section {section!r}{_did_you_mean(section, SECTIONS)}"


def _unknown_key(section: str, name: str) -> str:
    homes = [other for other in SECTIONS if name in readers(other)]
    if homes:
        return f"{name} is unknown in [{section}]; it belongs in [{homes[0]}]"
    hint = _did_you_mean(name, readers(section))
    return f"{name!r} is unknown in [{section}]{hint}"


def _did_you_mean(word: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(word, list(known), n=1)
    return f"; did you mean {close[0]!r}?" if close else ""


def _exposed_inputs(handler: Handler) -> list[str]:
    """The publish inputs that listen on more than this machine."""
    inputs = []
    http = handler.push_in_http
    if http is not None and not values.is_loopback(http.host):
        inputs.append(f"push_in_http_addr={http.host or '(unset: every address)'}")
    specs = [("push_in_spec", handler.push_in_spec)]
    if not handler.push_in_sub_connect:
        specs += [("push_in_sub_specs", spec) for spec in handler.push_in_sub_specs]
    inputs += [f"{name}={spec}" for name, spec in specs if not values.spec_is_loopback(spec)]
    return inputs
