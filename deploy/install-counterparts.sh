#!/usr/bin/env bash
# Installs the programs that the tests talk to: Orthanc with its DICOMweb plugin, dcmtk, rsyslog, PostgreSQL, curl, a C compiler. Needs root and apt; without
# them it says which are missing (their tests are then left out, and with CI=true that is a failure).
set -euo pipefail

missing=()
[ -x /usr/sbin/Orthanc ] || command -v Orthanc >/dev/null || missing+=(orthanc)
[ -e /usr/share/orthanc/plugins/libOrthancDicomWeb.so ] || missing+=(orthanc-dicomweb)
command -v dsrdump >/dev/null || missing+=(dcmtk)
[ -x /usr/sbin/rsyslogd ] && ls /usr/lib/*/rsyslog/lmnsd_gtls.so >/dev/null 2>&1 || missing+=(rsyslog rsyslog-gnutls)
ls /usr/lib/postgresql/*/bin/postgres >/dev/null 2>&1 || missing+=(postgresql)
command -v curl >/dev/null || missing+=(curl)
command -v openssl >/dev/null || missing+=(openssl)
command -v chromium-headless-shell >/dev/null || command -v chromium >/dev/null || command -v google-chrome >/dev/null ||
  missing+=(chromium-headless-shell fonts-dejavu-core) # shows the OHIF viewer
command -v cc >/dev/null || missing+=(gcc libc6-dev) # keeps the counterparts on loopback (tests/loopback.c)
[ "${#missing[@]}" -eq 0 ] && exit 0

if [ "$(id -u)" -ne 0 ] || ! command -v apt-get >/dev/null; then
  echo "Not installed here: ${missing[*]}. Tests that need them are left out; as root on Debian or Ubuntu: apt-get install ${missing[*]}"
  exit 0
fi

echo "Installing ${missing[*]} ..."
export DEBIAN_FRONTEND=noninteractive
# The packages' own services must not start: the tests start what they need, on loopback.
made_policy=0
if [ ! -e /usr/sbin/policy-rc.d ]; then
  printf '#!/bin/sh\nexit 101\n' > /usr/sbin/policy-rc.d
  chmod +x /usr/sbin/policy-rc.d
  made_policy=1
fi
cleanup() { [ "$made_policy" = 0 ] || rm -f /usr/sbin/policy-rc.d; }
trap cleanup EXIT
apt-get update -qq
known=()
for package in "${missing[@]}"; do
  if apt-cache show "$package" >/dev/null 2>&1; then known+=("$package"); else echo "apt has no $package here"; fi
done
[ "${#known[@]}" -eq 0 ] || apt-get -o DPkg::Lock::Timeout=600 install -y -qq --no-install-recommends "${known[@]}" >/dev/null 2>&1
