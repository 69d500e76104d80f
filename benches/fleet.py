#!/usr/bin/env python3
"""Rates of a fleet of 1, 2 and 3 replicas over a cluster of three nats-servers, for docs/fleet.md.

    cargo build --profile fast --features nats && benches/fleet.py target/fast/gmfy-sidecar

Needs nats-server and wrk. Everything is on loopback and shares this machine's cores, so rates say
little; processor time an event says more. 64 lanes, 10,000 users, JetStream's default sync_interval.
SECONDS_EACH (5) is how long each load lasts.
"""

import os
import pathlib
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request

BINARY = os.path.realpath(sys.argv[1])
SECONDS = int(os.environ.get("SECONDS_EACH", "5"))
PATIENCE = 30
USERS, LANES, LEASE = 10_000, 64, 2
LUA = """
local bodies, at = {}, 0
init = function()
  math.randomseed(os.time())
  for i = 1, %(bodies)d do
    local events = {}
    for j = 1, %(events)d do
      events[j] = string.format('{"userId":"user-%%d","type":"visit","text":"page %%d"}',
        math.random(%(users)d), j)
    end
    bodies[i] = %(events)d == 1 and events[1] or "[" .. table.concat(events, ",") .. "]"
  end
end
request = function()
  at = at %% #bodies + 1
  return wrk.format("POST", "%(path)s", {["content-type"] = "application/json"}, bodies[at])
end
"""


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def cpu(processes):
    """Seconds of processor time that these have used."""
    ticks = 0
    for process in processes:
        fields = pathlib.Path(f"/proc/{process.pid}/stat").read_text().rsplit(")", 1)[1].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def get(port, path):
    with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as answer:
        return answer.read().decode()


def counted(ports, name):
    lines = "\n".join(get(port, "/metrics") for port in ports)
    return sum(float(value) for value in re.findall(rf"^{name}(?:{{.*}})? (\S+)$", lines, re.M))


def wait_for(what, is_so):
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        try:
            if is_so():
                return
        except OSError:
            pass
        time.sleep(0.1)
    raise SystemExit(f"{what}: not within {PATIENCE} s")


def measure(folder, processes, replicas, events, connections):
    def start(*command):
        log = open(folder / f"log-{len(processes)}", "wb")
        process = subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL)
        processes.append(process)
        return process

    clients, routes, watch = [[free_port() for _ in range(3)] for _ in range(3)]
    cluster = []
    for index in range(3):
        cluster.append(start(
            "nats-server", "--addr", "127.0.0.1", "--port", str(clients[index]),
            "--name", f"n{index}", "--http_port", str(watch[index]), "--jetstream",
            "--store_dir", str(folder / f"n{index}"), "--cluster_name", "fleet",
            "--cluster", f"nats://127.0.0.1:{routes[index]}",
            "--routes", ",".join(f"nats://127.0.0.1:{port}" for port in routes)))
    wait_for("JetStream", lambda: '"leader": "n' in get(watch[0], "/jsz"))
    time.sleep(1)
    gmfy = free_port()
    simulator = start(BINARY, "simulate", "--listen", f"127.0.0.1:{gmfy}", "--api-key", "key")
    gateways, apis, opss = [], [], []
    for index in range(replicas):
        apis.append(free_port())
        opss.append(free_port())
        sets = {
            "upstream.url": f"http://127.0.0.1:{gmfy}/", "upstream.api_key": "key",
            "api.listen": f"127.0.0.1:{apis[-1]}", "ops.listen": f"127.0.0.1:{opss[-1]}",
            "admin.listen": "127.0.0.1:0", "queue.dir": str(folder / f"r{index}"),
            "queue.backend": "nats", "queue.nats.lanes": LANES, "queue.nats.lease": f"{LEASE}s",
            "queue.nats.servers": ",".join(f"nats://127.0.0.1:{port}" for port in clients),
            "queue.nats.max_bytes": "1GiB", "log.level": "warn",
        }
        arguments = [word for key, value in sets.items() for word in ("--set", f"{key}={value}")]
        gateways.append(start(BINARY, "run", *arguments))
        wait_for("a replica", lambda: get(opss[-1], "/readyz") is not None)
    # The lanes are shared out.
    time.sleep(3 * LEASE)

    script = folder / "load.lua"
    script.write_text(LUA % {
        "bodies": 20_000 // events, "events": events, "users": USERS,
        "path": "/v1/events/" if events == 1 else "/v1/events/batch/"})
    before = {"gateway": cpu(gateways), "nats": cpu(cluster)}
    began = time.monotonic()
    loads = [subprocess.Popen(
        ["wrk", "-t1", f"-c{connections // replicas}", f"-d{SECONDS}", "-s", str(script),
         f"http://127.0.0.1:{port}/"], stdout=subprocess.PIPE, text=True) for port in apis]
    output = [load.communicate()[0] for load in loads]
    took = time.monotonic() - began
    refused = sum(int(n) for text in output for n in re.findall(r"Non-2xx.*: (\d+)", text))
    delivered = counted(opss, "gmfy_events_delivered_total")
    end = time.monotonic() + PATIENCE
    while True:
        accepted = counted(opss, "gmfy_events_accepted_total")
        last = counted(opss, "gmfy_events_delivered_total")
        if last >= accepted or time.monotonic() > end:
            break
        time.sleep(0.1)
    drained = time.monotonic() - began
    each = lambda key, of: (cpu(of) - before[key]) / max(accepted, 1) * 1e6
    # The stream's messages go to disk on all three, the leader does more than the others.
    print(f"| {replicas} | {events} | {accepted / took:,.0f} | {delivered / took:,.0f} | "
          f"{last / drained:,.0f} | {each('gateway', gateways):.1f} | {each('nats', cluster):.1f} | "
          f"{refused} | {accepted - last:,.0f} |", flush=True)
    assert simulator.poll() is None


# So that what was started is stopped.
signal.signal(signal.SIGTERM, lambda *_: sys.exit("stopped"))
print(f"{subprocess.check_output(['nats-server', '--version'], text=True).strip()}, "
      f"{os.cpu_count()} cores")
print("| replicas | events a request | accepted/s | delivered/s meanwhile | delivered/s to the end | "
      "gateways' µs an event | NATS servers' µs an event | refused requests | left |")
print("|---|---|---|---|---|---|---|---|---|")
for events, connections in ((1, 96), (100, 24)):
    for replicas in (1, 2, 3):
        processes = []
        with tempfile.TemporaryDirectory() as folder:
            try:
                measure(pathlib.Path(folder), processes, replicas, events, connections)
            finally:
                for process in reversed(processes):
                    process.kill()
                for process in processes:
                    process.wait()
