// Package transcript tells what transactions a process has, from the tracepoints of the Binder driver: who calls, what with,
// how large, how long it waits and how long it takes. It sees no contents, and changes nothing for those who are watched.
package transcript
