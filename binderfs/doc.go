// Package binderfs mounts Binder file systems, allocates Binder devices in them, and tells what a host has of Binder.
//
// Each mount is a world of its own: its devices share nothing with those of any other mount, even in the same IPC namespace.
// That makes a mount the natural unit for a sandbox. See the package binder below for what is said through a device.
package binderfs
