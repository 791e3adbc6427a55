#!/bin/sh
# What TPROXY needs beside its rules: packets with its mark are this machine's own, whatever their
# destination. Run it as root before the rules are loaded, at every start.
set -e
for family in -4 -6; do
	ip $family rule del fwmark 0x3129 lookup 3129 2>/dev/null || true
	ip $family rule add fwmark 0x3129 lookup 3129
	ip $family route replace local default dev lo table 3129
done
