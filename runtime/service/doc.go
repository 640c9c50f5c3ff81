// Package service is the monitor: the process that virtualises one service and answers for it.
//
// A monitor joins a sandbox, an engine and a gate. The gate asks it for instances, checkpoints and replacements of
// crashed instances (package gate); people and programs ask it through its control API, HTTP with JSON over the
// unix socket <root>/<id>/control.sock:
//
//	GET  /v1/ready                     nothing: the monitor answers
//	GET  /v1/service                   what is served, by which engine, since when
//	GET  /v1/binder                    counters of the Binder gate
//	GET  /v1/apps                      every app: state, transactions, checkpoints, memory, crashes
//	GET  /v1/apps/{app}/log            the app's history
//	POST /v1/apps/{app}/checkpoint     {"tag": "…"}
//	POST /v1/apps/{app}/restore        {"to": "CHECKPOINT|TAG|base"}
//	GET  /v1/events                    one JSON object a line, until the client goes away; ?since=N for older ones
//	POST /v1/signal                    {"signal": 1}
//	POST /v1/stop                      end the service: instances, checkpoints, sockets, the sandbox's processes
//	GET  /metrics                      Prometheus
//
// {app} is escaped as a path segment. An error is {"error": "…", "code": "…"} with a fitting status.
//
// Everything that a monitor needs to know outlives it. Instances and checkpoints are processes of the sandbox; the
// record <root>/<id>/service.json says how the engine finds them, and the journal what they are: whose, since when,
// from which state. A checkpoint is in the journal, on disk, before it is acknowledged. So a monitor may be killed
// at any instant: the supervisor that started it starts another one, and should that be dead too, the next command
// that wants to talk to the service does. The one that holds the lock <root>/<id>/monitor.lock is the monitor; the
// kernel lets go of the lock when it dies.
package service
