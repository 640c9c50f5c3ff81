// Package hooks gives containers of other runtimes a Binder file system of their own: runc, crun and podman by an OCI hook,
// LXC by its own kind of hook. The command corsa-binderfs-hook is what is installed.
//
// Everything that a hook makes lies in the container's mount namespace and goes away with it. What it makes outside, the
// place where the host sees the container's devices, is taken back by the hook that runs when the container has ended.
package hooks
