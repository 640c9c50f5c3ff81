// Package instance is the model of one virtualised service: apps, their instances, checkpoints and histories.
// It is pure Go: no system calls, no goroutines, nothing of ours imported.
package instance

// App is an app key as it is written everywhere: "uid:2001", "pid:77", "cgroup:/user.slice/a", "conn:12".
type App string
