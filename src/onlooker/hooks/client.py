"""The hook client: hand what an agent tells on stdin to Onlooker, or keep it for later.

    python -I -S client.py AGENT [--home FOLDER] [--context]
    python -I -S client.py --drain [--home FOLDER]

One file, standard library only, so that any Python can run it by its path. The agent never notices it: whatever
happens it ends within 300 ms (1.2 s where it waits for context), exits 0, and prints nothing but the answer that
`--context` asks the server for. Modules that take long to import (`json`, `re`, `socket`) are not used on the way of
an ordinary payload: with them the process would take twice as long.

What cannot be delivered goes into `<home>/spool/events`, one file a process, in the form of `frame`. While anything
waits there, all that follows goes there too, so that nothing overtakes it; the server of this home takes it from
there, or `--drain` sends it where the server is on another machine.
"""

import _socket
import _thread
import os
import sys
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

DEFAULT_HOME = "~/.onlooker"
DEFAULT_URL = "http://127.0.0.1:37878"
CAPTURE_S = 0.15
"""From the first look for the server to its answer."""
CONTEXT_S = 1.0
DRAIN_S = 10.0
STDIN_S = 2.0
"""How long a payload that begins and does not end is waited for; agents write theirs at once."""
SILENCE_S = 0.05
"""After so much silence an object that looks whole is taken, where the agent leaves stdin open."""

BLOCK = 4096
LARGEST_SPOOL = 512 * 1024 * 1024
"""Bytes on disk, counted in whole blocks; past it payloads are dropped and counted, so that no disk is filled."""
LARGEST_BODY = 8 * 1024 * 1024
"""What the server takes of one payload (`http.hooks`); in a longer one the longest texts are left out."""

REFUSED_FOR_GOOD = (400, 413, 422)
"""Answers that the same payload would get again."""

BINARY = getattr(os, "O_BINARY", 0)
"""Where the system tells texts from other files, it would put a byte before each line's end."""

_PLAIN = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~/:@")


class Place:
    """Where an agent works: the project's name, what tells it from others of that name, and whether to stay away."""

    def __init__(self, name: str, identity: str, *, excluded: bool = False) -> None:
        self.name = name
        self.identity = identity
        self.excluded = excluded


def main(arguments: list[str]) -> None:
    """Deliver the payload on stdin, else keep it."""
    home = find_home(arguments)
    if "--drain" in arguments:
        drain(home)
        return
    at_ns = time.time_ns()
    body = read_payload()
    place = find_place(find_folder(), home)
    if not body.strip() or place.excluded:
        return
    if len(body) > LARGEST_BODY:
        body = shorten(body)
    agent = arguments[0] if arguments and not arguments[0].startswith("-") else "claude-code"
    hand_over(home, at_ns, agent, place, body, wants_context="--context" in arguments)


def hand_over(home: str, at_ns: int, agent: str, place: Place, body: bytes, *, wants_context: bool) -> None:
    """Post the payload, or keep it where the server does not take it or others wait already; print what is answered."""
    url, is_remote = find_url(home)
    if is_remote and place.identity.startswith("path:"):
        # The same path on two machines is two projects.
        place.identity = f"path:{os.uname().nodename if hasattr(os, 'uname') else ''}:{place.identity[5:]}"
    head = (
        f"x-onlooker-at: {at_ns // 1_000_000}\r\n"
        f"x-onlooker-project: {quote(place.name)}\r\nx-onlooker-place: {quote(place.identity)}\r\n"
    )
    waits = next(waiting(home), None) is not None
    if waits:
        keep(home, at_ns, agent, head, body)
        if is_remote:
            start_draining(home)
        if not wants_context:
            return
    path = f"/v1/hooks/{quote(agent)}"
    if wants_context:
        path += "/context?store=false" if waits else "/context"
    within_s = CONTEXT_S if wants_context else CAPTURE_S
    status, answer = post(url, path, find_key(home), head, body, wants_answer=wants_context, within_s=within_s)
    if not waits and not is_settled(status):
        keep(home, at_ns, agent, head, body)
    if wants_context and 200 <= status < 300 and answer.strip() != b"{}":
        sys.stdout.buffer.write(answer)
        sys.stdout.buffer.flush()


def find_folder() -> str:
    """Where the agent was started: as it says itself, else the folder that this process was started in."""
    for name in ("CLAUDE_PROJECT_DIR", "CURSOR_PROJECT_DIR", "GEMINI_PROJECT_DIR"):
        if os.environ.get(name):
            return os.environ[name]
    return os.getcwd()


def find_home(arguments: list[str]) -> str:
    """The home: the one in the command, else `ONLOOKER_HOME`, else the default."""
    given = arguments[arguments.index("--home") + 1] if "--home" in arguments[:-1] else None
    return os.path.abspath(os.path.expanduser(given or os.environ.get("ONLOOKER_HOME") or DEFAULT_HOME))


def read_payload() -> bytes:
    """What stands on stdin: to its end, or until a whole object stands there and nothing more comes."""
    if sys.platform == "win32":
        return sys.stdin.buffer.read()
    from select import select

    parts: list[bytes] = []
    give_up_at = time.monotonic() + STDIN_S
    while True:
        silent = not select([0], [], [], SILENCE_S)[0]
        if silent:
            if time.monotonic() >= give_up_at or (parts and b"".join(parts).rstrip().endswith(b"}")):
                break
            continue
        part = os.read(0, 1 << 20)
        if not part:
            break
        parts.append(part)
    return b"".join(parts)


def find_key(home: str) -> str:
    """The key: `ONLOOKER_KEY`, else the one that was made for hooks, else the home's own; empty where there is none."""
    return os.environ.get("ONLOOKER_KEY") or read_line(home, "hook.key") or read_line(home, "key")


def find_url(home: str) -> tuple[str, bool]:
    """Where the server is, and whether that is another machine, which does not look into this one's spool."""
    given = os.environ.get("ONLOOKER_URL") or read_line(home, "hook.url")
    if given:
        authority = given.partition("://")[2].partition("/")[0]
        return given, not authority.startswith(("127.", "localhost", "[::1]"))
    told = read_line(home, ".server.runtime.json", whole=True).partition('"url": "')[2].partition('"')[0]
    return told or DEFAULT_URL, False


def read_line(home: str, name: str, *, whole: bool = False) -> str:
    """The first line of a file of the home, or all of it; empty where it cannot be read."""
    try:
        with open(f"{home}/{name}", encoding="utf-8", errors="replace") as file:
            return file.read() if whole else file.readline().strip()
    except OSError:
        return ""


def find_place(folder: str, home: str = "") -> Place:
    """The project that a folder belongs to.

    Clones and worktrees of one repository are one project, by the address of their remote; without a remote they are
    one by their common `.git`; a folder outside of git is its own. `ONLOOKER_PROJECT`, else `project = "…"` in the
    nearest `.onlooker.toml`, decides over all of that. A folder is excluded by `ONLOOKER_EXCLUDE=1`, by
    `exclude = true` in the nearest `.onlooker.toml`, or by a line in `<home>/excluded` that names it or one above.
    """
    folder = os.path.realpath(folder)
    parents = list(_upwards(folder))
    excluded = os.environ.get("ONLOOKER_EXCLUDE", "") not in ("", "0")
    for line in read_line(home, "excluded", whole=True).splitlines() if home else ():
        excluded = excluded or line.strip() in parents
    name = os.environ.get("ONLOOKER_PROJECT", "")
    for parent in parents:
        if os.path.exists(f"{parent}/.onlooker.toml"):
            told = _read_toml(f"{parent}/.onlooker.toml")
            excluded = excluded or told.get("exclude") is True
            project = told.get("project")
            name = name or (project if isinstance(project, str) else "")
            break
    if name:
        return Place(name, f"name:{name}", excluded=excluded)
    for parent in parents:
        common = _common_git(parent)
        if common:
            found = _place_of_git(common)
            return Place(found.name, found.identity, excluded=excluded)
    return Place(os.path.basename(folder), f"path:{folder}", excluded=excluded)


def _upwards(folder: str) -> "Iterator[str]":
    yield folder
    while (parent := os.path.dirname(folder)) != folder:
        yield parent
        folder = parent


def _read_toml(path: str) -> dict[str, object]:
    """What stands there; of one that is no TOML only that it wants to exclude: a slip must not tell what it hides."""
    import tomllib

    try:
        with open(path, "rb") as file:
            data = file.read()
    except OSError:
        return {}
    try:
        return tomllib.loads(data.decode())
    except ValueError:
        return {"exclude": b"exclude" in data}


def _common_git(folder: str) -> str:
    """The `.git` that a folder shares with its worktrees; empty where the folder is no root of one."""
    path = f"{folder}/.git"
    if os.path.isdir(path):
        return path
    link = read_line(folder, ".git")
    if not link.startswith("gitdir:"):
        return ""
    path = os.path.normpath(os.path.join(folder, link[7:].strip()))
    common = read_line(path, "commondir")
    return os.path.normpath(os.path.join(path, common)) if common else path


def _place_of_git(common: str) -> Place:
    remotes: dict[str, str] = {}
    section = ""
    for line in read_line(common, "config", whole=True).splitlines():
        line = line.strip()  # noqa: PLW2901 - the line without what surrounds it
        if line.startswith("["):
            section = line
        elif section.startswith('[remote "') and line.replace(" ", "").startswith("url="):
            remotes.setdefault(section[9:].partition('"')[0], line.partition("=")[2].strip())
    remote = remotes.get("origin") or next(iter(remotes.values()), "")
    root = os.path.dirname(common) if os.path.basename(common) == ".git" else common
    address = _address(remote, root) if remote else f"path:{root}"
    return Place(os.path.basename(address).removesuffix(".git") or "unknown", address)


def _address(remote: str, root: str) -> str:
    """A remote without what differs between clones: scheme, user, password, port, ending, case."""
    scheme, found, rest = remote.partition("://")
    if found and scheme != "file":
        host, _, path = rest.rpartition("@")[2].partition("/") if "@" in rest.partition("/")[0] else rest.partition("/")
        host = host.rpartition("@")[2].partition(":")[0]
    elif not found and ":" in remote.partition("/")[0] and len(remote.partition(":")[0]) > 1:
        host, _, path = remote.rpartition("@")[2].partition(":")
    else:
        return "path:" + os.path.normpath(os.path.join(root, rest if found else remote)).removesuffix(".git")
    return "git:" + f"{host}/{path.strip('/')}".lower().removesuffix(".git").rstrip("/")


def quote(text: str) -> str:
    """A text as a header or a path can carry it, percent-encoded."""
    return "".join(chr(byte) if byte in _PLAIN else f"%{byte:02X}" for byte in os.fsencode(text))


def shorten(body: bytes) -> bytes:
    """A payload with its longest texts left out, whole: half a text may hide that it is a secret."""
    import json

    longest = 1 << 20
    value = json.loads(body)

    def left_out(part: object) -> object:
        if isinstance(part, str):
            return part if len(part) <= longest else f"[… {len(part)} characters left out …]"
        if isinstance(part, list):
            return [left_out(each) for each in part]
        return {name: left_out(each) for name, each in part.items()} if isinstance(part, dict) else part

    while len(body) > LARGEST_BODY and longest > 256:
        longest //= 4
        body = json.dumps(left_out(value)).encode()
    return body


def is_settled(status: int) -> bool:
    """Whether the server has the payload, or would refuse it for ever."""
    return 200 <= status < 300 or status in REFUSED_FOR_GOOD


def post(
    url: str, path: str, key: str, head: str, body: bytes, *, wants_answer: bool = False, within_s: float = CAPTURE_S
) -> tuple[int, bytes]:
    """The status and the body of the answer; 0 when none came in time.

    A thread does it, since looking a name up and a handshake know no time limit of their own.
    """
    done = _thread.allocate_lock()
    done.acquire()
    answers: list[bytes] = []

    def ask() -> None:
        try:
            answers.append(_exchange(url, path, key, head, body, wants_answer, within_s))
        except (OSError, ValueError):
            answers.clear()
        finally:
            done.release()

    _thread.start_new_thread(ask, ())
    done.acquire(timeout=within_s)
    line, _, rest = (answers[0] if answers else b"").partition(b"\r\n")
    words = line.split(None, 2)
    status = int(words[1]) if len(words) > 1 and words[1].isdigit() else 0
    return status, rest.partition(b"\r\n\r\n")[2]


def _exchange(
    url: str,
    path: str,
    key: str,
    head: str,
    body: bytes,
    wants_answer: bool,  # noqa: FBT001 - as `post` hands it on
    within_s: float,
) -> bytes:
    scheme, _, rest = url.partition("://")
    authority, _, prefix = rest.partition("/")
    if scheme not in ("http", "https") or not authority:
        raise ValueError(url)
    host, port = _host_and_port(authority, 443 if scheme == "https" else 80)
    # As bytes: a text would first load the codec for names in other alphabets, which takes as long as all the rest.
    name = host.encode("ascii" if host.isascii() else "idna")
    family, kind, protocol, _, address = _socket.getaddrinfo(name, port, 0, _socket.SOCK_STREAM)[0]
    connection = _socket.socket(family, kind, protocol)
    connection.settimeout(within_s)
    connection.connect(address)
    if scheme == "https":
        connection = _tls(connection, host, within_s)
    prefix = f"/{prefix.rstrip('/')}" if prefix.rstrip("/") else ""
    request = (
        f"POST {prefix}{path} HTTP/1.1\r\nhost: {authority}\r\nauthorization: Bearer {key}\r\n"
        f"content-type: application/json\r\ncontent-length: {len(body)}\r\nconnection: close\r\n{head}\r\n"
    )
    connection.sendall(request.encode("ascii", "replace") + body)
    answer = b""
    while part := connection.recv(1 << 16):
        answer += part
        if not wants_answer and b"\r\n" in answer:
            break
    return answer


def _host_and_port(authority: str, port: int) -> tuple[str, int]:
    if authority.startswith("["):
        host, _, rest = authority[1:].partition("]")
        return host, int(rest[1:] or port)
    host, _, given = authority.partition(":")
    return host, int(given or port)


def _tls(connection: "_socket.socket", host: str, within_s: float) -> "_socket.socket":
    import socket
    import ssl

    plain = socket.socket(connection.family, connection.type, connection.proto, fileno=connection.detach())
    plain.settimeout(within_s)
    return ssl.create_default_context().wrap_socket(plain, server_hostname=host)


def waiting(home: str) -> "Iterator[str]":
    """The names of the files that wait in the spool, in no order."""
    try:
        with os.scandir(f"{home}/spool/events") as found:
            for entry in found:
                yield entry.name
    except OSError:
        return


def frame(agent: str, head: str, body: bytes) -> bytes:
    """A kept payload: lines as in a request's head, an empty line, and the payload, whose length is told."""
    return f"x-onlooker-agent: {quote(agent)}\r\n{head}content-length: {len(body)}\r\n\r\n".encode() + body


def keep(home: str, at_ns: int, agent: str, head: str, body: bytes) -> None:
    """Put the payload into the spool, for its owner alone, whole or not at all; what finds no room is counted."""
    spool, data = f"{home}/spool", frame(agent, head, body)
    name = f"{at_ns:020d}-{os.getpid()}"
    try:
        for folder in (home, spool, f"{spool}/events"):
            os.makedirs(folder, 0o700, exist_ok=True)
        _append(f"{spool}/dropped", b"")
        if _append(f"{spool}/blocks", bytes(-(-len(data) // BLOCK))) * BLOCK > LARGEST_SPOOL:
            raise OSError("the spool is full")  # noqa: TRY301 - dropped as where the disk is
        draft = os.open(f"{spool}/.{name}", os.O_WRONLY | os.O_CREAT | os.O_EXCL | BINARY, 0o600)
        try:
            written = 0
            while written < len(data):
                written += os.write(draft, data[written:])
        finally:
            os.close(draft)
        os.replace(f"{spool}/.{name}", f"{spool}/events/{name}")
    except OSError:
        _drop(spool, f"{spool}/.{name}")


def _append(path: str, data: bytes) -> int:
    """Append to a file of which only the length matters; its length then."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | BINARY, 0o600)
    try:
        if data:
            os.write(descriptor, data)
        return os.fstat(descriptor).st_size
    finally:
        os.close(descriptor)


def _drop(spool: str, draft: str) -> None:
    """Count a payload that is lost: `dropped` grows by a byte, which takes no room even where there is none."""
    if os.path.exists(draft):
        os.unlink(draft)
    descriptor = os.open(f"{spool}/dropped", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        if sys.platform != "win32":
            import fcntl

            fcntl.flock(descriptor, fcntl.LOCK_EX)
        os.ftruncate(descriptor, os.fstat(descriptor).st_size + 1)
    finally:
        os.close(descriptor)


def start_draining(home: str) -> None:
    """Send what waits from a process of its own, which the agent does not wait for."""
    command = [sys.executable, "-I", "-S", os.path.abspath(__file__), "--drain", "--home", home]
    if sys.platform == "win32":
        os.spawnv(os.P_DETACH, command[0], [f'"{part}"' for part in command])  # noqa: S606 - no shell is wanted
        return
    silence = [(os.POSIX_SPAWN_OPEN, number, os.devnull, os.O_RDWR, 0) for number in range(3)]
    os.posix_spawn(command[0], command, os.environ, file_actions=silence, setsid=True)


def drain(home: str) -> None:
    """Send what waits in the spool, the oldest first, until one is not taken. One process at a time."""
    lock = os.open(f"{home}/spool/lock", os.O_RDWR | os.O_CREAT, 0o600)
    if sys.platform != "win32":
        import fcntl

        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return
    url, _ = find_url(home)
    key = find_key(home)
    while names := sorted(waiting(home)):
        for name in names:
            path = f"{home}/spool/events/{name}"
            with open(path, "rb") as file:
                head, _, body = file.read().partition(b"\r\n\r\n")
            lines = head.decode("ascii", "replace").split("\r\n")
            agent = next((line[18:] for line in lines if line.startswith("x-onlooker-agent: ")), "claude-code")
            told = "".join(f"{line}\r\n" for line in lines if line.startswith(("x-onlooker-at", "x-onlooker-p")))
            status, _ = post(url, f"/v1/hooks/{agent}", key, told, body, within_s=DRAIN_S)
            if not is_settled(status):
                return
            os.unlink(path)
    os.truncate(f"{home}/spool/blocks", 0)


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except Exception as error:  # noqa: BLE001 - whatever it is, the agent's work goes on
        if os.environ.get("ONLOOKER_HOOK_DEBUG"):
            print(f"onlooker hook: {error!r}", file=sys.stderr, flush=True)  # noqa: T201 - asked for
    # At once: a thread may still wait for a server, and there is nothing to tidy up.
    os._exit(0)
