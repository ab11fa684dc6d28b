# The image from static programs: built from the very Dockerfile with no registry, and run as docker runs it, with all
# capabilities dropped and a root that can't be written to.
mkdir "$HERE/context" "$HERE/context/bin" "$HERE/run"
cp deploy/docker/Dockerfile "$HERE/context/"
cp "$KEELSON_STATIC"/{etcd,etcdctl,etcdutl} "$HERE/context/bin/"
engine() {
    podman --root "$HERE/storage" --runroot "$HERE/run" --storage-driver vfs --cgroup-manager cgroupfs \
        --events-backend file --runtime runc "$@"
}
engine build -q --format docker --isolation chroot --target prebuilt -t keelson "$HERE/context"
shown() { engine image inspect localhost/keelson --format "$1"; }
shown '{{json .Config}}'
[ "$(shown '{{json .Config.Cmd}} {{json .Config.Entrypoint}} {{.Config.WorkingDir}}')" = '["/usr/local/bin/etcd"] [] /var/lib/etcd/' ] ||
    [ "$(shown '{{json .Config.Cmd}} {{json .Config.Entrypoint}} {{.Config.WorkingDir}}')" = '["/usr/local/bin/etcd"] null /var/lib/etcd/' ]
[ "$(shown '{{json .Config.ExposedPorts}}')" = '{"2379/tcp":{},"2380/tcp":{},"2381/tcp":{}}' ]
[ "$(shown '{{json .Config.Healthcheck.Test}}')" = '["CMD","/usr/local/bin/etcd","healthcheck"]' ]
alone=(--network none --ulimit nofile=4096:4096 --ulimit nproc=4096:4096 --health-interval=disable)
trap 'engine rm -f etcd1 etcd2; engine volume rm data' EXIT
engine run -d --name etcd1 "${alone[@]}" --cap-drop=ALL --security-opt no-new-privileges --read-only \
    -v data:/var/lib/etcd localhost/keelson
until engine logs etcd1 2>&1 | grep 'ready to serve client requests'; do sleep 0.2; done
engine exec etcd1 etcdctl put a 1
engine healthcheck run etcd1
engine stop -t 30 etcd1
[ "$(engine inspect etcd1 --format '{{.State.ExitCode}}')" = 0 ]
engine start etcd1
until engine exec etcd1 etcdctl get a | grep '^1$'; do sleep 0.2; done
# Flags count as variables do: this one has no other plain listener.
engine run -d --name etcd2 "${alone[@]}" localhost/keelson etcd --listen-metrics-urls=http://127.0.0.1:2999 \
    --auto-tls --listen-client-urls=https://127.0.0.1:2379 --advertise-client-urls=https://127.0.0.1:2379
until engine logs etcd2 2>&1 | grep 'ready to serve client requests'; do sleep 0.2; done
engine healthcheck run etcd2
# The ways in which people start etcd's image.
for words in "etcd --version" "/usr/local/bin/etcd --version" "/usr/local/bin/etcdctl version" "etcdutl version"; do
    engine run --rm "${alone[@]}" localhost/keelson $words
done
