"""samba_session.py SHARE STATE OPLOCKS WHAT WORDS...: exports the directory SHARE and is its client, as the first process of
namespaces that end with it. Exit status 1 and a line on standard error when something is not as it must be."""

import hashlib
import os
import random
import subprocess
import sys
import time

CONFIG = """[global]
  server role = standalone server
  interfaces = lo
  bind interfaces only = yes
  smb ports = 445
  disable netbios = yes
  disable spoolss = yes
  load printers = no
  log file = {state}/log
  private dir = {state}/private
  lock directory = {state}/lock
  state directory = {state}/state
  cache directory = {state}/cache
  pid directory = {state}/pid
  ncalrpc dir = {state}/ncalrpc
  map to guest = Bad User
  guest account = root
  client min protocol = SMB2
[share]
  path = {share}
  guest ok = yes
  read only = no
  force user = root
  vfs objects = acl_xattr
  acl_xattr:ignore system acls = no
  ea support = yes
  store dos attributes = yes
  oplocks = {oplocks}
  level2 oplocks = {oplocks}
  kernel oplocks = no
  strict sync = yes
"""
CLIENT = ["smbclient", "//127.0.0.1/share", "-N", "-d0"]


def fail(message):
    print(message, file=sys.stderr, flush=True)
    sys.exit(1)


def client(*commands, status=0, seconds=300):
    done = subprocess.run(
        [*CLIENT, "-c", "; ".join(commands)], capture_output=True, text=True, timeout=seconds, check=False, cwd=STATE
    )
    said = done.stdout + done.stderr
    if status == 0 and (done.returncode != 0 or "NT_STATUS" in said):
        fail(f"{commands[0]} ...: {said.strip()[-300:]}")
    return said


def serve():
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    subprocess.run(["mount", "-t", "tmpfs", "none", "/run"], check=True)
    os.makedirs("/run/samba")
    for name in "private", "lock", "state", "cache", "pid", "ncalrpc":
        os.mkdir(os.path.join(STATE, name))
    config = os.path.join(STATE, "conf")
    with open(config, "w", encoding="ascii") as file:
        file.write(CONFIG.format(state=STATE, share=SHARE, oplocks=OPLOCKS))
    CLIENT.extend(["-s", config])
    with open(os.path.join(STATE, "out"), "wb") as out:
        smbd = subprocess.Popen(["smbd", "-F", "--no-process-group", "-s", config], stdout=out, stderr=out)
    deadline = time.monotonic() + 60
    while "blocks available" not in client("ls", status=None):
        if smbd.poll() is not None or time.monotonic() > deadline:
            with open(os.path.join(STATE, "log"), encoding="utf-8", errors="replace") as log:
                fail("smbd does not answer: " + " | ".join(log.read().strip().splitlines()[-3:]))
        time.sleep(0.2)


def batch(dice, files, number):
    """Some changes for one connection: commands, and what must be there then."""
    commands = []
    for i in range(10):
        name, kind = f"d{dice.randrange(3)}/f{dice.randrange(30)}", dice.random()
        if kind < 0.2 and files:
            gone = dice.choice(sorted(files))
            del files[gone]
            commands.append(f"del {gone.replace('/', chr(92))}")
        elif kind < 0.4 and files:
            old = dice.choice(sorted(files))
            if name not in files:
                files[name] = files.pop(old)
                commands.append(f"rename {old.replace('/', chr(92))} {name.replace('/', chr(92))}")
        else:
            local = f"local{number}.{i}"
            data = dice.randbytes(dice.randrange(200000))
            with open(os.path.join(STATE, local), "wb") as file:
                file.write(data)
            files[name] = hashlib.sha256(data).hexdigest()
            commands.append(f"put {local} {name.replace('/', chr(92))}")
    return commands


def check(files):
    there = set()
    for directory in "d0", "d1", "d2":
        there |= {f"{directory}/{name}" for name in os.listdir(os.path.join(SHARE, directory))}
    if there != set(files):
        fail(f"other names: {sorted(there ^ set(files))}")
    commands = [f"get {name.replace('/', chr(92))} got{i}" for i, name in enumerate(sorted(files))]
    client(*commands)
    for i, name in enumerate(sorted(files)):
        for path in os.path.join(SHARE, name), os.path.join(STATE, f"got{i}"):
            with open(path, "rb") as file:
                if hashlib.sha256(file.read()).hexdigest() != files[name]:
                    fail(f"{path}: other contents")


def changes(count, seed):
    dice, files = random.Random(int(seed)), {}
    for number in range(3):
        path = os.path.join(SHARE, f"d{number}")
        subprocess.run(["rm", "-rf", path], check=True)
    client("mkdir d0", "mkdir d1", "mkdir d2")
    for number in range(max(int(count) // 10, 1)):
        commands = batch(dice, files, number)
        client(*commands)
        for name in os.listdir(STATE):
            if name.startswith("local"):
                os.unlink(os.path.join(STATE, name))
    check(files)
    attributes()


def attributes():
    """DOS attributes, extended attributes and an ACL: they come back, and lie in the file's own attributes."""
    with open(os.path.join(STATE, "plain"), "wb") as file:
        file.write(b"plain")
    path = os.path.join(SHARE, "attributed")
    if os.path.exists(path):
        os.unlink(path)
    client("put plain attributed", 'setea attributed colour "dark blue"', "setmode attributed +sh")
    said = client("geteas attributed", "allinfo attributed")
    if "colour" not in said or not {"S", "H"} <= set(said.split("attributes:")[1].split()[0]):
        fail(f"attributes: {said[-400:]}")
    names = os.listxattr(path)
    for name in "user.colour", "user.DOSATTRIB":
        if name not in names:
            fail(f"{name} is not among {names}")
    config = CLIENT[-1]
    acl = ["smbcacls", "-N", "-s", config, "//127.0.0.1/share", "attributed"]
    subprocess.run([*acl, "-a", "ACL:S-1-5-32-545:ALLOWED/0/READ"], check=True, capture_output=True, timeout=60)
    said = subprocess.run(acl, check=True, capture_output=True, text=True, timeout=60).stdout
    if not any("545" in line or "Users" in line for line in said.splitlines()):
        fail(f"the ACL: {said[-400:]}")
    names = os.listxattr(path)
    if "security.NTACL" not in names:
        fail(f"security.NTACL is not among {names}")
    client("rename attributed moved", "geteas moved", "del moved")


def overwrite(name, _holder):
    """What a client sees who puts a file over one that is pinned."""
    with open(os.path.join(STATE, "new"), "wb") as file:
        file.write(b"n" * 100)
    try:
        said = client(f"put new {name}", status=None, seconds=15)
    except subprocess.TimeoutExpired:
        print("waits")
        return
    words = [word.strip(":,") for word in said.split() if word.startswith("NT_STATUS")]
    print(words[0] if words else "ok")


def measure(count):
    count = int(count)
    with open(os.path.join(STATE, "small"), "wb") as file:
        file.write(b"s" * 4096)
    with open(os.path.join(STATE, "large"), "wb") as file:
        file.write(b"l" * (64 << 20))
    seconds = []
    for commands in (
        [f"put small f{i}" for i in range(count)],
        [f"get f{i} small" for i in range(count)],
        ["put large large"],
    ):
        begin = time.monotonic()
        client(*commands)
        seconds.append(time.monotonic() - begin)
    print(count / seconds[0], count / seconds[1], 64 / seconds[2])


SHARE, STATE, OPLOCKS, WHAT = sys.argv[1:5]
serve()
{"changes": changes, "overwrite": overwrite, "measure": measure}[WHAT](*sys.argv[5:])
