#!/usr/bin/env bash
# Installs what `make viewer` needs: Chromium and Node (Debian), playwright-core and the built OHIF viewer (npm, checked against
# its checksum). 250 MB to download, once; needs root only for what apt has to install.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
OHIF_VERSION=3.13.2
OHIF_SHA512=WZdxmpmG7rqFgW9ZJLcbgr3XCtLi1KDNPoMaeY5PPe6j4G4fjEjjkycZM6C6Zk2F87BKxFfpq+jd5xXZB9E8EA==

missing=()
command -v chromium >/dev/null || missing+=(chromium fonts-dejavu-core)
command -v node >/dev/null || missing+=(nodejs npm)
if [ "${#missing[@]}" -gt 0 ]; then
  if [ "$(id -u)" -ne 0 ] || ! command -v apt-get >/dev/null; then
    echo "Not installed here: ${missing[*]}. As root on Debian or Ubuntu: apt-get install ${missing[*]}" >&2
    exit 1
  fi
  echo "Installing ${missing[*]} ..."
  apt-get update -qq
  DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=600 install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
fi
[ -d node_modules/playwright-core ] || npm install --silent --ignore-scripts --no-audit --no-fund --no-package-lock
if [ ! -f .installed/ohif/dist/index.html ]; then
  rm -rf .installed
  mkdir -p .installed/ohif
  (cd .installed && npm pack --silent "@ohif/app@$OHIF_VERSION" >/dev/null)
  found="$(openssl dgst -sha512 -binary .installed/*.tgz | base64 -w0)"
  [ "$found" = "$OHIF_SHA512" ] || { echo "@ohif/app $OHIF_VERSION has another checksum: $found" >&2; exit 1; }
  tar xzf .installed/*.tgz -C .installed/ohif --strip-components=1 package/dist package/LICENSE package/package.json
  rm .installed/*.tgz
fi
