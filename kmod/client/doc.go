// Package client is the Go door to corsa.ko, the kernel module that lets one running process be any of several private
// copies of itself.
//
// kmod/uapi/corsa.h is the contract and says what records, images and instances are; this package adds nothing to it
// but Go types, errors that can be told apart, and descriptors that are closed. A Device is /dev/corsa, a Session is
// one attached process. The zero values of both are not usable.
//
// With CORSADEBUG=1 in the environment every request and its outcome is written to standard error.
package client
