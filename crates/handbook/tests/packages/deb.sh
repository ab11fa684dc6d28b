# The Debian package: built, looked at, installed on a copy of this machine, its unit run by systemd itself, and removed.
PROFILE=dev deploy/debian/make-package --fast -o "$HERE/"
package=$(echo "$HERE"/etcd-server_*.deb)
dpkg-deb -I "$package"
contents=$(dpkg-deb -c "$package" | awk '$1 !~ /^d/ {print $1, $2, $6}')
for line in "-rwxr-xr-x 0/0 ./usr/bin/etcd" "-rwxr-xr-x 0/0 ./usr/bin/etcdctl" "-rwxr-xr-x 0/0 ./usr/bin/etcdutl" \
    "-rw-r--r-- 0/0 ./etc/default/etcd" "-rw-r--r-- 0/0 ./usr/lib/systemd/system/etcd.service" \
    "-rw-r--r-- 0/0 ./usr/lib/sysusers.d/etcd.conf" "-rw-r--r-- 0/0 ./usr/lib/tmpfiles.d/etcd.conf" \
    "-rw-r--r-- 0/0 ./usr/share/bash-completion/completions/etcdctl" \
    "-rw-r--r-- 0/0 ./usr/share/zsh/vendor-completions/_etcdctl" \
    "-rw-r--r-- 0/0 ./usr/share/fish/vendor_completions.d/etcdutl.fish" \
    "-rw-r--r-- 0/0 ./usr/share/man/man1/etcdctl-get.1.gz"; do
    grep -Fx -- "$line" <<<"$contents"
done
# An upgrade of the machine does not put Debian's own in its place.
dpkg --compare-versions "$(dpkg-deb -f "$package" Version)" gt 99
# What lintian asks of packages in Debian's archive only.
lintian --fail-on error --suppress-tags no-changelog,bogus-mail-host "$package"

source crates/handbook/tests/packages/machine.sh
cp "$package" "$root/package.deb"
chroot "$root" dpkg -i /package.deb

cat >"$root/trial.sh" <<'T'
set -eEuxo pipefail
systemctl is-enabled etcd
systemctl start etcd # returns once it has said that it serves
etcdctl put a 1
etcd healthcheck http://127.0.0.1:2381
[ "$(stat -c '%U:%G %a' /var/lib/etcd /var/lib/etcd/default | uniq)" = 'etcd:etcd 700' ]
[ "$(ps -o user=,ni= -C etcd | xargs)" = 'etcd -5' ]
# The unit's own walls leave the server's walls standing.
journalctl -u etcd -o cat | grep 'files are confined'
pid() { systemctl show -P MainPID etcd; }
killed=$(pid)
kill -9 "$killed"
until [ "$(pid)" != "$killed" ] && [ "$(systemctl is-active etcd)" = active ]; do sleep 0.2; done
etcdctl get a | grep '^1$'
# The package again, as an upgrade: the server is another process, and has its data.
killed=$(pid)
dpkg -i /package.deb
[ "$(pid)" != "$killed" ]
until etcdctl get a | grep '^1$'; do sleep 0.2; done
systemctl stop etcd
[ "$(systemctl show -P Result etcd)" = success ]
systemctl start etcd
dpkg -r etcd-server
[ "$(systemctl is-active etcd)" = inactive ]
dpkg -P etcd-server
test -d /var/lib/etcd/default/member
[ ! -e /etc/default/etcd ]
T
boot
