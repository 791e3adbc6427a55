"""Prints a row of the table of sizes: the program's size, and its memory when idle and with tunnels.

Usage: sizes.py PROGRAM TITLE PROFILE, in a network namespace of its own, as root.
"""

import os
import pathlib
import socket
import ssl
import statistics
import subprocess
import sys
import tempfile
import threading
import time

HOST, UPSTREAM, PROXY = "contoso.azurecr.io", ("127.0.1.1", 443), ("127.0.0.1", 3128)
TUNNELS = 100
# How much of the program file is in memory differs between runs: the median counts.
RUNS = 5


def serve(folder):
    """Accepts TLS connections, and keeps them open."""
    name = ["-subj", f"/CN={HOST}", "-keyout", folder / "key", "-out", folder / "cert"]
    subprocess.run(["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", *name],
                   check=True, stderr=subprocess.DEVNULL)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "cert", folder / "key")
    listener = socket.create_server(UPSTREAM, backlog=TUNNELS)
    kept = []

    def accept():
        while True:
            plain, _ = listener.accept()
            stream = context.wrap_socket(plain, server_side=True)
            stream.sendall(b"x" * 100_000)
            kept.append(stream)

    threading.Thread(target=accept, daemon=True).start()


def tunnel():
    """Opens a tunnel, downloads a little, and returns it."""
    plain = socket.create_connection(PROXY)
    plain.sendall(f"CONNECT {HOST}:443 HTTP/1.1\r\nHost: {HOST}:443\r\n\r\n".encode())
    answer = b""
    while not answer.endswith(b"\r\n\r\n"):
        read = plain.recv(1)
        assert read, answer
        answer += read
    assert answer.startswith(b"HTTP/1.1 200"), answer
    context = ssl._create_unverified_context()
    stream = context.wrap_socket(plain, server_hostname=HOST)
    left = 100_000
    while left:
        left -= len(stream.recv(left))
    return stream


def memory(pid):
    """Returns resident memory, and its anonymous part, in MiB."""
    fields = dict(line.split(":", 1) for line in open(f"/proc/{pid}/status"))
    return [int(fields[name].split()[0]) / 1024 for name in ("VmRSS", "RssAnon")]


def run(program, folder):
    """Starts a gate, and returns its memory when idle and with tunnels."""
    gate = subprocess.Popen([program, "run", "--config", folder / "pullgate.toml"],
                            stderr=subprocess.DEVNULL)
    try:
        for _ in range(600):
            time.sleep(0.05)
            if subprocess.run([program, "health", "--admin", "127.0.0.1:9128"],
                              capture_output=True).returncode == 0:
                break
        idle = memory(gate.pid)
        tunnels = [tunnel() for _ in range(TUNNELS)]
        busy = memory(gate.pid)
        assert len(tunnels) == TUNNELS
    finally:
        gate.kill()  # It would wait for its tunnels otherwise.
        gate.wait()
    return [*idle, *busy]


def main():
    program, title, profile = sys.argv[1:]
    with tempfile.TemporaryDirectory() as text:
        folder = pathlib.Path(text)
        serve(folder)
        (folder / "registries.d").mkdir()
        (folder / "registries.d/contoso.toml").write_text(f'login-server = "{HOST}"\n')
        (folder / "pullgate.toml").write_text(
            f'[[listen]]\nmode = "connect"\naddress = "127.0.0.1:3128"\n'
            f'[admin]\naddress = "127.0.0.1:9128"\n[policy]\nregistries = "registries.d"\n'
            f'[dns.hosts]\n"{HOST}" = ["{UPSTREAM[0]}"]\n[addresses]\nallow = ["127.0.0.0/8"]\n'
            f'[audit]\npath = "{folder}/audit.jsonl"\n[process]\nprofile = "{profile}"\n')
        runs = [run(program, folder) for _ in range(RUNS)]
    size = os.path.getsize(program) / 1e6
    figures = " | ".join(f"{value:.1f}" for value in [size, *map(statistics.median, zip(*runs))])
    print(f"| {title} | {figures} |")


main()
