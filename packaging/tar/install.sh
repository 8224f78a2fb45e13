#!/bin/sh
# Installs skerry from this folder, and starts it by the init that is there: systemd or procd. With any other init it says what to
# run. DESTDIR installs below another folder and starts nothing.
set -e
cd "$(dirname "$0")"
dest="${DESTDIR%/}"

if [ -z "$dest" ] && [ "$(id -u)" != 0 ]; then
	echo "install.sh: run this as root, or set DESTDIR" >&2
	exit 1
fi

# Before anything is written: a binary of another machine can't say so itself.
if [ -z "$dest" ] && ! ./skerry --version >/dev/null; then
	echo "install.sh: this skerry does not run here: this machine is $(uname -m), and the package is for another" >&2
	exit 1
fi

put() { # mode, file, where: whole or not at all, also over a running program
	mkdir -p "$(dirname "$dest$3")"
	cp "$2" "$dest$3.new"
	chmod "$1" "$dest$3.new"
	mv "$dest$3.new" "$dest$3"
}

put 0755 skerry /usr/bin/skerry
mkdir -p "$dest/usr/lib/skerry/modules"
[ -e "$dest/etc/skerry/config.toml" ] || put 0600 config.toml /etc/skerry/config.toml

if [ -d "$dest/run/systemd/system" ] || [ -n "$dest" -a -d "$dest/lib/systemd" ]; then
	# Its unit runs it with this group, whose members may use the control socket.
	if [ -z "$dest" ] && ! getent group skerry >/dev/null; then
		groupadd --system skerry
	fi
	put 0644 skerry.service /etc/systemd/system/skerry.service
	[ -n "$dest" ] || { systemctl daemon-reload && systemctl enable skerry && systemctl restart skerry; }
elif [ -x "$dest/sbin/procd" ]; then
	put 0755 procd/skerry /etc/init.d/skerry
	put 0644 keep /lib/upgrade/keep.d/skerry
	[ -n "$dest" ] || { /etc/init.d/skerry enable && /etc/init.d/skerry restart; }
else
	echo "no systemd and no procd here; have your init start, and start again when it ends:"
	echo "  /usr/bin/skerry run --config /etc/skerry/config.toml"
fi
echo "installed; modules go to /usr/lib/skerry/modules"
