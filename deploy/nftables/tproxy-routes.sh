#!/bin/sh
# The routes for the TPROXY rules: packets with their mark are delivered to this machine, whatever
# their destination. Run this script as root at every boot.
set -e
for family in -4 -6; do
	ip $family rule del fwmark 0x3129 lookup 3129 2>/dev/null || true
	ip $family rule add fwmark 0x3129 lookup 3129
	ip $family route replace local default dev lo table 3129
done
