# The Debian package: built, looked at, installed on a copy of this machine, its unit run by systemd itself, and removed.
PROFILE=dev deploy/debian/make-package --fast -o "$HERE/"
package=$(echo "$HERE"/etcd-server_*.deb)
dpkg-deb -I "$package"
contents=$(dpkg-deb -c "$package" | awk '$1 !~ /^d/ {print $1, $2, $6}')
for line in "-rwxr-xr-x 0/0 ./usr/bin/etcd" "-rwxr-xr-x 0/0 ./usr/bin/etcdctl" "-rwxr-xr-x 0/0 ./usr/bin/etcdutl" \
    "-rw-r--r-- 0/0 ./etc/default/etcd" "-rw-r--r-- 0/0 ./usr/lib/systemd/system/etcd.service" \
    "-rw-r--r-- 0/0 ./usr/lib/sysusers.d/etcd.conf" "-rw-r--r-- 0/0 ./usr/lib/tmpfiles.d/etcd.conf"; do
    grep -Fx -- "$line" <<<"$contents"
done
# An upgrade of the machine does not put Debian's own in its place.
dpkg --compare-versions "$(dpkg-deb -f "$package" Version)" gt 99
# What lintian asks of packages in Debian's archive only.
lintian --fail-on error --suppress-tags no-changelog,bogus-mail-host "$package"

root=$HERE/root
mkdir "$HERE"/{upper,work,root}
mount -t overlay overlay -o "lowerdir=/,upperdir=$HERE/upper,workdir=$HERE/work" "$root"
trap 'umount "$root"' EXIT
# Somebody else's would be in the way, and so is what keeps services of images from being started.
chroot "$root" dpkg --purge --force-depends etcd etcd-server etcd-client keelson 2>/dev/null || true
rm -f "$root/usr/sbin/policy-rc.d"
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
cat >"$root/etc/systemd/system/trial.service" <<'U'
[Unit]
Requires=basic.target
After=basic.target
SuccessAction=exit
FailureAction=exit
FailureActionExitStatus=3
[Service]
Type=oneshot
ExecStart=/bin/bash /trial.sh
StandardOutput=file:/trial.log
StandardError=inherit
U
systemd-nspawn -q -D "$root" --boot --private-network --register=no --keep-unit --console=pipe \
    --system-call-filter="landlock_create_ruleset landlock_add_rule landlock_restrict_self" \
    systemd.unit=trial.service >"$HERE/console" 2>&1 || { cat "$root/trial.log"; tail -n 50 "$HERE/console"; exit 1; }
cat "$root/trial.log"
