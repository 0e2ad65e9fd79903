#!/bin/sh
# Installs the Debian packages that some tests use, where this machine lets us; says what is skipped where not.
# sox and opus-tools decode our audio independently of the library that encoded it.
packages="sox libsox-fmt-mp3 opus-tools"
commands="sox opusdec"

missing=""
for command in $commands; do
  command -v "$command" >/dev/null 2>&1 || missing="$missing $command"
done
[ -z "$missing" ] && exit 0

if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
  { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends $packages; } \
    >/dev/null 2>&1 && exit 0
fi
echo "Not installed:$missing. Tests that decode audio with them are skipped; 'apt-get install $packages' brings them."
