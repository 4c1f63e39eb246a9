#!/usr/bin/env python3
"""Asks a port's device management agent what srp_daemon asks: dm_ask.py UMAD GID GID_INDEX.

Prints one line per answer; exit status 1 when one does not come or has another status than 0.
"""

import fcntl
import os
import select
import socket
import struct
import sys

ENABLE_PKEY = 0x1B03
REGISTER_AGENT = 0xC01C1B01
QKEY = 0x80010000


def ask(umad, agent, gid, gid_index, number, attribute, modifier):
    header = bytearray(64)
    struct.pack_into("=IIIII", header, 0, agent, 0, 2000, 1, 256)
    struct.pack_into(">II", header, 20, 1, QKEY)
    struct.pack_into("BBBB", header, 32, 1, gid_index, 64, 0)
    header[36:52] = gid
    mad = bytearray(256)
    struct.pack_into(">BBBBHHQHHI", mad, 0, 1, 6, 1, 1, 0, 0, number, attribute, 0, modifier)
    os.write(umad, bytes(header + mad))
    if not select.select([umad], [], [], 20)[0]:
        raise SystemExit(f"attribute {attribute:#06x}: nothing came back")
    packet = os.read(umad, 320)
    sent, answer = struct.unpack_from("=I", packet, 4)[0], packet[64:]
    status = struct.unpack_from(">H", answer, 4)[0]
    if sent or status or answer[3] != 0x81:
        raise SystemExit(f"attribute {attribute:#06x}: errno {sent}, status {status:#06x}")
    return answer[64:]


def main():
    path, gid, gid_index = sys.argv[1], socket.inet_pton(socket.AF_INET6, sys.argv[2]), sys.argv[3]
    umad = os.open(path, os.O_RDWR)
    fcntl.ioctl(umad, ENABLE_PKEY)
    request = bytearray(28)
    struct.pack_into("BBB", request, 20, 1, 6, 1)
    fcntl.ioctl(umad, REGISTER_AGENT, request)
    agent = struct.unpack_from("=I", request)[0]
    target = (umad, agent, gid, int(gid_index))
    unit = ask(*target, 1, 0x0010, 0)
    print(f"unit: {unit[2]} slots, first {unit[4] >> 4}")
    profile = ask(*target, 2, 0x0011, 1)
    print(f"controller: guid {profile[:8].hex()}, {profile[64:128].rstrip(bytes(1)).decode()}")
    entry = ask(*target, 3, 0x0012, 0x00010000)
    print(f"service: {entry[:40].rstrip(bytes(1)).decode()} {entry[40:48].hex()}")


if __name__ == "__main__":
    main()
