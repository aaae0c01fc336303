"""A page to look through the train tiles with: image, mask, prediction, confidence and errors of each, worst first.

It is served to this machine alone, on 127.0.0.1, until Ctrl-C. All predictions are out of fold. The IoU of every tile
is worked out once, and kept in `runs/<name>/tile_scores.csv`.
"""

import contextlib
import errno
import socket

from base.command import run as run_command
from base.command import stage_parser
from base.errors import UserError
from reports.material import Material, run_to_look_at
from reports.tile_view import TileView

PORT = 8050


def open_port(port: int) -> socket.socket:
    """A socket that is bound to a port of this machine's own address; 0: any that is free.

    Raises:
        UserError: the port is taken, or not for everybody.
    """
    opened = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # one that was in use a moment ago is free
    try:
        opened.bind(("127.0.0.1", port))
        opened.listen()  # two may bind a port, one may listen: the second is to hear of it now
    except OSError as error:
        opened.close()
        why = {errno.EADDRINUSE: "is in use", errno.EACCES: "is not for everybody"}.get(error.errno)
        if why is None:
            raise
        raise UserError(
            f"port {port} {why}; choose another one with --port, or --port 0 for any that is free"
        ) from None
    return opened


def serve(view: TileView, opened: socket.socket) -> None:
    """Answer until Ctrl-C.

    Raises:
        UserError: the web server is not installed.
    """
    try:
        import fastapi  # noqa: F401
        import uvicorn
    except ModuleNotFoundError as error:
        raise UserError(
            f"{error.name} is not installed, which only this page needs. Run: pip install -r requirements-browse.txt"
        ) from None
    from reports.browse_app import make_app

    app = make_app(view)
    print(f"http://127.0.0.1:{opened.getsockname()[1]}/   {len(view.table):,} tiles; Ctrl-C ends it", flush=True)
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning", access_log=False, timeout_graceful_shutdown=2))
    with contextlib.suppress(KeyboardInterrupt):  # which is how one leaves
        server.run(sockets=[opened])


def port_number(text: str) -> int:
    port = int(text)
    if not 0 <= port <= 65535:
        raise ValueError
    return port


port_number.__name__ = "port"  # argparse says "invalid port value"


def main(argv: list[str] | None = None) -> None:
    parser = stage_parser("reports.browse", __doc__)
    parser.add_argument("--port", type=port_number, default=PORT, help="0: any that is free (default: %(default)s)")
    args = parser.parse_intermixed_args(argv)
    view = TileView(Material(run_to_look_at(args.config, args.overrides)))
    with open_port(args.port) as opened:
        serve(view, opened)


if __name__ == "__main__":
    run_command(main)
