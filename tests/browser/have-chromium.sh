#!/bin/sh
# Sees to a Chromium for the browser tests: the one there is, or Debian's where we are root and may install it.
for name in chromium chromium-browser google-chrome; do
    command -v "$name" >/dev/null 2>&1 && exit 0
done
if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
    apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends chromium >/dev/null && exit 0
fi
echo "No Chromium found: the browser tests will fail. Install one (Debian: apt install chromium) and try again." >&2
exit 1
