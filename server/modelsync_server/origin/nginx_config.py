"""The configuration by which nginx answers for a store: what never changes from the directory, the rest by our origin.

The contract is docs/origin.md's; limits are those of our own server. Every path is relative to nginx's prefix, so that
no name has to be quoted. Pure: no I/O here.
"""

from __future__ import annotations

from dataclasses import dataclass

from modelsync_server.origin.http_rules import PIECE_SECONDS
from modelsync_server.origin.processes import HEADER_SECONDS, IDLE_SECONDS

SOCKET, STORE, EMPTY = "origin.sock", "store", "empty"
CHAIN, KEY, TICKET_KEYS = "chain.pem", "key.pem", "tickets.key"
"""Names below the prefix: our origin's socket, a link to what is served, what absent objects consist of; links to the
certificate and its key, the keys of TLS tickets."""

END_SECONDS = 2
"""How long requests may go on after SIGQUIT."""

_NAME = "/[A-Za-z0-9_-][A-Za-z0-9._-]{0,254}"
_END = r"\z"
"""`$` would match before a line's end too, which then stood in the request that is handed on."""


@dataclass(frozen=True, slots=True)
class Front:
    """What differs between configurations.

    `address`: as `listen` takes it. `user`: (user, group) of the workers where root starts nginx. `directory`: the
    store is one, which nginx reads itself. `workers` hold `connections` each; `descriptors` limits open files.
    """

    address: str
    tls: bool
    directory: bool
    workers: int
    connections: int
    descriptors: int
    user: tuple[str, str] | None


def text(front: Front) -> str:
    """The whole file."""
    return f"""# Written by `modelsync serve --front nginx`, which starts nginx with it and removes it at the end.
daemon off;
pid nginx.pid;
error_log stderr error;
{f"user {front.user[0]} {front.user[1]};" if front.user else ""}
worker_processes {front.workers};
worker_rlimit_nofile {front.descriptors};
worker_shutdown_timeout {END_SECONDS}s;
events {{ worker_connections {front.connections}; }}
http {{
    access_log off;
    log_not_found off;
    server_tokens off;
    types {{ }}
    default_type "";
    {"".join(f"{kind}_temp_path temporary/{kind}; " for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))}
    sendfile on;
    sendfile_max_chunk 512k;
    tcp_nopush on;
    keepalive_timeout {IDLE_SECONDS:.0f}s;
    keepalive_requests 1000000;
    client_header_timeout {HEADER_SECONDS:.0f}s;
    client_body_timeout {HEADER_SECONDS:.0f}s;
    send_timeout {PIECE_SECONDS:.0f}s;
    reset_timedout_connection on;
    client_max_body_size 1k;
    large_client_header_buffers 2 8k;
    open_file_cache max=4096 inactive=20s;
    open_file_cache_valid 1s;
    {_TLS if front.tls else ""}
    upstream origin {{ server unix:{SOCKET}; keepalive 32; keepalive_timeout {IDLE_SECONDS / 2:.0f}s; }}
    proxy_cache_path cache levels=1:2 keys_zone=small:10m max_size=256m inactive=1h use_temp_path=off;

    # What never changes is tagged by its name: every copy of a store gives the same tags.
    map $uri $tag {{ "~/([^/]{{1,12}})[^/]*$" '"$1"'; }}
    # From the beginning: tried from each slash of a long header, it would take as long as that is squared.
    map "$uri $http_if_none_match" $has {{ "~^[^ ]*/([^/ ]{{1,12}}+)[^/ ]* (?:.*[ ,/])?\\"\\1\\"" 1; }}
    server {{
        listen {front.address}{" ssl" if front.tls else ""};
        root {STORE};
        disable_symlinks on from=$document_root;
        error_page 404 /absent;

        location / {{ return 404; }}
        location = /absent {{ internal; alias {EMPTY}; etag off; add_header Last-Modified ""; }}
        location ~ "^/(?:metadata/timestamp\\.json|bundles(?:{_NAME}){{1,2}}){_END}" {{
            limit_except GET {{ deny all; }}
            proxy_cache_lock on;{_PROXY}
        }}
        location ~ "^/(?:manifests|packs|updates|metadata)(?:{_NAME}){{1,2}}{_END}" {{
            limit_except GET {{ deny all; }}{_FILES if front.directory else _BUCKET + _PROXY}
        }}
    }}
}}
"""


_TLS = f"""ssl_certificate {CHAIN};
    ssl_certificate_key {KEY};
    ssl_protocols TLSv1.2 TLSv1.3;
    ssl_session_cache shared:tls:4m;
    ssl_session_timeout 7d;
    ssl_session_ticket_key {TICKET_KEYS};
    ssl_conf_command NumTickets 1;"""

_FILES = """
            if (!-f $request_filename) { set $has ""; }
            if ($has) { return 304; }
            etag off;
            add_header ETag $tag;
            add_header Last-Modified "";
            add_header Cache-Control "public, max-age=31536000, immutable";"""

# How long an answer is kept is said by our origin (X-Accel-Expires); a part of what is not kept is asked of it as such.
# Nobody waits for another's request here, since that may be a long one whose answer is not kept.
_BUCKET = """
            proxy_set_header Range $http_range;
            proxy_set_header If-Range $http_if_range;
            proxy_set_header If-None-Match $http_if_none_match;"""

# The path as nginx understood it, and no header that is not named: the cache's key is the whole request.
_PROXY = """
            proxy_pass http://origin$uri;
            proxy_http_version 1.1;
            proxy_pass_request_headers off;
            proxy_pass_request_body off;
            proxy_set_header Connection "";
            proxy_redirect off;
            proxy_buffers 8 64k;
            proxy_buffer_size 16k;
            proxy_busy_buffers_size 128k;
            proxy_max_temp_file_size 0;
            proxy_cache small;
            proxy_cache_key "$request_method $uri";
            proxy_cache_convert_head off;
            proxy_ignore_headers Cache-Control Expires Set-Cookie Vary;
            proxy_force_ranges on;"""
