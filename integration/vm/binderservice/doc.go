// Package binderservice has tests of `corsa serve --gate binder`, which run in a VM.
package binderservice
