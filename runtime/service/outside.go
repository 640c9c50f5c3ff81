package service

import (
	"corsa.dev/corsa/runtime/sandbox"
	"corsa.dev/corsa/spec"
)

// Outside is the service svc of the sandbox as apps on the host see it. Its unix sockets have the names that the host gives
// them where they lie in a volume of the container; all others have the same name on the host as in the container.
func Outside(box *sandbox.Sandbox, svc *spec.Service) *spec.Service {
	out := *svc
	out.Endpoints = make([]spec.Endpoint, len(svc.Endpoints))
	for i, e := range svc.Endpoints {
		if e.Network == "unix" {
			if path, ok := box.HostPath(e.Address); ok {
				e.Address = path
			}
		}
		out.Endpoints[i] = e
	}
	return &out
}
