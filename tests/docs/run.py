"""Runs the commands of one page: see tests/docs.sh, which gives this process a network of its own."""

import contextlib
import http.server
import os
import pathlib
import queue
import re
import shlex
import ssl
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request

ROOT = pathlib.Path(__file__).resolve().parents[2]
# How long a command may take, and how long it is tried again: what was published is in the journal a moment later.
COMMAND_S = 120
AGAIN_S = 30
# The customers' hosts. Public addresses, which this network has for itself.
HOSTS = ["example.com", "hooks.example.com", "example.org"]
ADDRESS = "198.41.0.4"
# What listens there passes on to the reader's own receiver.
RECEIVER = "http://127.0.0.1:3000"

FENCE = re.compile(r"(\s*)(```|~~~)(.*)$")
NOT_RUN = re.compile(r"<!-- not run: .+ -->\s*$")
# Blocks that are run, and names for them that are not.
RUN, NOT_CALLED = ["sh", "console"], ["bash", "shell"]
KINDS = "ep|evt|dlv|rej|key|whsec|mgk"
PRINTED = re.compile(rf"\b({KINDS})_[A-Za-z0-9+/=_-]{{16,}}")
COPIED = re.compile(rf"\b({KINDS})_[0-9a-zA-Z]*…")


# What goes on until it is stopped; a reader has a terminal for it.
LASTING = re.compile(r"^magnetite (up|listen|event tail)\b")


class Failure(Exception):
    pass


@contextlib.contextmanager
def described(what):
    """Says of a failure in which command it was."""
    try:
        yield
    except Failure as failure:
        raise Failure(f"{what}\n{failure}") from None


# ---- The page ----


def blocks(path):
    """The blocks that are run, each as (heading above it, kind, [(line number, line)])."""
    heading, kind, lines, before = "", None, [], ""
    for number, line in enumerate(path.read_text().splitlines(), 1):
        fence = FENCE.match(line)
        if kind is None and fence:
            indent, marks, info = fence.groups()
            if info.split()[:1] and info.split()[0] in RUN + NOT_CALLED and (indent or marks != "```" or info not in RUN):
                raise Failure(f"{path}:{number}: a block that is run begins with ```sh or ```console, and nothing more")
            kind, lines = ("" if NOT_RUN.match(before) else info) or "none", []
        elif fence and not fence[3].strip():
            if kind in RUN:
                yield heading, kind, lines
            elif any(text.startswith("$ ") for _, text in lines) and not NOT_RUN.match(before):
                raise Failure(f"{path}:{lines[0][0]}: commands in a block that is not run: call it console")
            kind = None
        elif kind is not None:
            lines.append((number, line))
            continue
        elif line.startswith("#"):
            heading = line.lstrip("# ")
        before = line
    if kind is not None:
        raise Failure(f"{path}: the last block does not end")


def is_complete(text):
    if text.rstrip().endswith("\\"):
        return False
    return subprocess.run(["bash", "-n"], input=text + "\n", text=True, capture_output=True).returncode == 0


def commands(path):
    """Every command of the page as (heading above it, number of its first line, command)."""
    for heading, kind, lines in blocks(path):
        if kind == "console":
            lines = [(number, line[2:]) for number, line in lines if line.startswith("$ ")]
        text, first = "", 0
        for number, line in lines:
            if not text and (not line.strip() or line.startswith("#")):
                continue
            text, first = (f"{text}\n{line}", first) if text else (line, number)
            if is_complete(text):
                yield heading, first, text
                text = ""
        if text:
            raise Failure(f"{path}:{first}: this command does not end: {text}")


# ---- The session ----


class Session:
    """One bash, and all that it and what it started has printed."""

    def __init__(self, directory, environment):
        self.shell = subprocess.Popen(
            ["bash", "--norc"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=environment,
            cwd=directory,
        )
        self.printed = {}
        self.background = []
        self.lines = queue.Queue()
        threading.Thread(target=self.read, daemon=True).start()

    def read(self):
        for line in self.shell.stdout:
            self.lines.put(line.decode(errors="replace"))
        self.lines.put(None)

    def line(self, until):
        try:
            line = self.lines.get(timeout=max(until - time.monotonic(), 0.01))
        except queue.Empty:
            raise Failure("it does not end") from None
        if line is None:
            raise Failure("the shell has ended")
        for found in PRINTED.finditer(line):
            self.printed[found[1]] = found[0]
        return line

    def filled(self, text):
        """The command with what a reader would have copied."""

        def copied(match):
            if match[1] not in self.printed:
                raise Failure(f"nothing that begins with {match[1]}_ was printed")
            return self.printed[match[1]]

        return COPIED.sub(copied, text)

    def once(self, text):
        """Runs it; returns its status and what was printed meanwhile."""
        mark = f"\x1e{time.monotonic_ns()}"
        self.shell.stdin.write(f"{{ {text}\n}} </dev/null\nprintf '\\n{mark} %s\\n' $?\n".encode())
        self.shell.stdin.flush()
        output, until = [], time.monotonic() + COMMAND_S
        while True:
            try:
                line = self.line(until)
            except Failure as failure:
                raise Failure(f"{failure}\n{''.join(output)}") from None
            if line.startswith(mark):
                return int(line.split()[1]), "".join(output)
            output.append(line)

    def run(self, text, again_s=AGAIN_S):
        if LASTING.search(text) and not is_background(text):
            text += " &"
        until, failed = time.monotonic() + again_s, None
        while True:
            status, output = self.once(self.filled(text))
            if status == 0:
                break
            if time.monotonic() > until:
                raise Failure(f"it ends with {status}\n{output}")
            if output != failed:
                print(f"docs: it ends with {status}, and is tried again: {output.strip()}", file=sys.stderr, flush=True)
                failed = output
            time.sleep(0.5)
        if is_background(text):
            _, output = self.once("echo $!")
            self.background.append((text, int(output.split()[-1])))
            self.await_start(text)

    def await_start(self, text):
        """A reader goes on when the program says that it runs."""
        if re.search(r"magnetite\S* up", text):
            await_http("http://127.0.0.1:8085/readyz")
            await_http("http://127.0.0.1:8420/openapi.json")
        elif "magnetite listen" in text:
            until = time.monotonic() + COMMAND_S
            while not re.search("listening on|receiving the events of", self.line(until)):
                pass

    def end(self):
        """What runs in the background still does, or has ended well."""
        for text, process in self.background:
            status, output = self.once(f"kill -0 {process} 2>&- || wait {process}")
            if status != 0:
                raise Failure(f"{text}: it ended with {status}\n{output}")


def is_background(text):
    return re.sub(r"\s+#.*$", "", text).rstrip().endswith("&")


def await_http(url):
    until = time.monotonic() + COMMAND_S
    while True:
        try:
            urllib.request.urlopen(url, timeout=5).read()
            return
        except (urllib.error.URLError, OSError) as error:
            if time.monotonic() > until:
                raise Failure(f"{url}: {error}") from None
        time.sleep(0.1)


# ---- What the network has ----


def run(*command, **options):
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, **options)


def make_network(directory):
    run("ip", "link", "set", "lo", "up")
    run("ip", "address", "add", f"{ADDRESS}/32", "dev", "lo")
    hosts = directory / "hosts"
    hosts.write_text(f"127.0.0.1 localhost\n{ADDRESS} {' '.join(HOSTS)}\n")
    run("mount", "--bind", hosts, "/etc/hosts")


def make_certificates(directory):
    """A certificate authority, and of it one certificate for all hosts; returns the paths of the former, the latter and its key."""
    ca, ca_key = directory / "ca.pem", directory / "ca.key"
    certificate, key, request = directory / "hosts.pem", directory / "hosts.key", directory / "hosts.csr"
    extensions = directory / "extensions"
    extensions.write_text("subjectAltName=" + ",".join(f"DNS:{host}" for host in HOSTS))
    new = ["openssl", "req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
    quiet = {"stderr": subprocess.DEVNULL}
    run(*new, "-x509", "-days", "30", "-subj", "/CN=Docs CA", "-keyout", ca_key, "-out", ca, **quiet)
    run(*new, "-subj", "/CN=hooks.example.com", "-keyout", key, "-out", request, **quiet)
    sign = ["openssl", "x509", "-req", "-in", request, "-CA", ca, "-CAkey", ca_key, "-CAcreateserial"]
    run(*sign, "-days", "30", "-extfile", extensions, "-out", certificate, **quiet)
    return ca, certificate, key


class Customer(http.server.BaseHTTPRequestHandler):
    """The proxy that speaks TLS before the reader's receiver; where none listens, it answers with the status in `outcome`, or 200."""

    protocol_version = "HTTP/1.1"
    outcome = None

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        headers = {name: value for name, value in self.headers.items() if name.lower() not in ("host", "connection")}
        request = urllib.request.Request(RECEIVER + self.path, body, headers, method="POST")
        try:
            status = urllib.request.urlopen(request, timeout=20).status
        except urllib.error.HTTPError as error:
            status = error.code
        except (urllib.error.URLError, OSError):
            status = int(self.outcome.read_text()) if self.outcome.exists() else 200
        self.send_response(status)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *arguments):
        pass


def serve_customers(certificate, key):
    server = http.server.ThreadingHTTPServer((ADDRESS, 443), Customer)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    threading.Thread(target=server.serve_forever, daemon=True).start()


def write_program(path, text):
    path.write_text(f"#!/usr/bin/env bash\n{text}\n")
    path.chmod(0o755)


def start_broker(directory, programs):
    script = ROOT / "deploy/local/broker.sh"
    files = directory / "broker"
    url = subprocess.run([script, "start", files], check=True, stdout=subprocess.PIPE, text=True).stdout.strip()
    write_program(programs / "rabbitmqctl", f'exec "{script}" ctl "{files}" "$@"')
    return url


def main():
    page = pathlib.Path(sys.argv[1])
    wanted = list(commands(page))
    if not wanted:
        return
    begun = time.monotonic()
    directory = pathlib.Path(sys.argv[2])
    programs = directory / "bin"
    programs.mkdir()
    Customer.outcome = directory / "outcome"
    make_network(directory)
    ca, certificate, key = make_certificates(directory)
    serve_customers(certificate, key)
    # An error of HTTP is one of the command, and a server that is still starting is waited for.
    curl = "--silent --show-error --fail-with-body --retry 60 --retry-connrefused --retry-delay 1"
    write_program(programs / "curl", f'exec /usr/bin/curl {curl} "$@"')
    (programs / "magnetite").symlink_to(ROOT / "target/debug/magnetite")
    environment = {
        "PATH": f"{programs}:{os.environ['PATH']}",
        "HOME": str(directory / "home"),
        "LANG": "C.UTF-8",
        "TMPDIR": str(directory),
        "OUTCOME": str(Customer.outcome),
        "MAGNETITE_BROKER__URL": start_broker(directory, programs),
        "MAGNETITE_EGRESS__ROOT_CERTIFICATES": str(ca),
        "MAGNETITE_RETRY__DELAYS": "200ms,200ms",
    }
    (directory / "home").mkdir()
    # The repository as far as its files go: what a page writes stays out of it.
    tree = directory / "repository"
    tree.mkdir()
    for entry in ROOT.iterdir():
        if entry.name == "magnetite.toml":
            # A developer's own.
            continue
        (tree / entry.name).symlink_to(entry)
    session = Session(tree, environment)
    before = ROOT / "tests/docs/before" / f"{page.stem.lower()}.sh"
    session.run(f"before() {{ :; }}; [ ! -e {before} ] || . {before}", again_s=0)
    section = None
    for heading, number, text in wanted:
        if heading != section:
            section = heading
            with described(f"{before}: before {section!r}"):
                session.run(f"before {shlex.quote(section)}", again_s=0)
        print(f"docs: {page}:{number}: {text.splitlines()[0]}", file=sys.stderr, flush=True)
        with described(f"{page}:{number}: {text}"):
            session.run(text)
    with described(f"{page}"):
        session.end()
    print(f"docs: {page}: {len(wanted)} commands in {time.monotonic() - begun:.0f} s", file=sys.stderr)


if __name__ == "__main__":
    try:
        main()
    except Failure as failure:
        sys.exit(f"docs: {failure}")
