# The RPM: built, looked at, installed on a copy of this machine, its unit run by systemd itself, and removed.
# Where the machine's rpm knows nothing of systemd, as Debian's, its macros have stand-ins that do the same.
macros=()
if [ "$(rpm --eval '%{_unitdir}')" = '%{_unitdir}' ]; then
    cat >"$HERE/macros" <<'M'
%_unitdir /usr/lib/systemd/system
%_sysusersdir /usr/lib/sysusers.d
%_tmpfilesdir /usr/lib/tmpfiles.d
%sysusers_create_compat() echo '%(cat %1)' | systemd-sysusers -
%tmpfiles_create() systemd-tmpfiles --create %1
%systemd_post() if [ "$1" = 1 ]; then systemctl daemon-reload && systemctl preset %1; fi
%systemd_preun() if [ "$1" = 0 ]; then systemctl disable --now %1; fi
%systemd_postun_with_restart() if [ "$1" != 0 ]; then systemctl daemon-reload && systemctl try-restart %1; fi
M
    macros+=(--load "$HERE/macros")
fi
rpmbuild -bb --nodeps deploy/rpm/etcd.spec --define "_topdir $HERE" --define "_sourcedir $PWD" \
    --define "programs $PROGRAMS" "${macros[@]}"
package=$(find "$HERE/RPMS" -name 'keelson-*.rpm')
contents=$(rpm -qp --queryformat '[%{FILEMODES:perms} %{FILEUSERNAME} %{FILENAMES}\n]' "$package")
for line in "-rwxr-xr-x root /usr/bin/etcd" "-rwxr-xr-x root /usr/bin/etcdctl" "-rwxr-xr-x root /usr/bin/etcdutl" \
    "-rw-r--r-- root /etc/etcd/etcd.conf" "-rw-r--r-- root /usr/lib/systemd/system/etcd.service" \
    "-rw-r--r-- root /usr/lib/sysusers.d/etcd.conf" "-rw-r--r-- root /usr/lib/tmpfiles.d/etcd.conf" \
    "-rw-r--r-- root /usr/share/bash-completion/completions/etcdctl" \
    "-rw-r--r-- root /usr/share/zsh/site-functions/_etcdctl" \
    "-rw-r--r-- root /usr/share/fish/vendor_completions.d/etcdutl.fish" \
    "-rw-r--r-- root /usr/share/man/man1/etcdctl-get.1.gz"; do
    grep -Fx -- "$line" <<<"$contents"
done
rpm -qp --provides "$package" | grep -x 'etcd = 3.7.1'
rpm -qpc "$package" | grep -x /etc/etcd/etcd.conf
# Debian's rpm wants to be told that it is meant.
source crates/handbook/tests/packages/machine.sh
cp "$package" "$root/package.rpm"
chroot "$root" userdel etcd 2>/dev/null || true

cat >"$root/trial.sh" <<'T'
set -eEuxo pipefail
if grep -q Debian /etc/os-release; then forced=--force-debian; fi
with_rpm() { rpm ${forced-} --nodeps "$@"; }
with_rpm -i /package.rpm
id etcd
[ "$(stat -c '%U:%G %a' /var/lib/etcd)" = 'etcd:etcd 700' ]
systemctl start etcd # returns once it has said that it serves
etcdctl put a 1
etcd healthcheck http://127.0.0.1:2381
[ "$(ps -o user= -C etcd)" = etcd ]
# The package again, as an upgrade: the server is another process, and has its data.
pid() { systemctl show -P MainPID etcd; }
killed=$(pid)
echo 'ETCD_LOG_LEVEL=debug' >>/etc/etcd/etcd.conf
with_rpm -U --force /package.rpm
[ "$(pid)" != "$killed" ]
until etcdctl get a | grep '^1$'; do sleep 0.2; done
with_rpm -e keelson
[ "$(systemctl is-active etcd)" = inactive ]
test -d /var/lib/etcd/default/member
# What was changed in the settings is kept.
grep debug /etc/etcd/etcd.conf.rpmsave
[ ! -e /usr/bin/etcd ]
T
boot
