package service

import (
	"testing"

	"corsa.dev/corsa/spec"
)

func TestASandboxOfKubernetesIsNoService(t *testing.T) {
	for key, value := range map[string]string{
		"io.kubernetes.cri.container-type": "sandbox", "io.kubernetes.cri-o.ContainerType": "sandbox", "other": "sandbox",
	} {
		for _, kind := range []string{value, "container"} {
			svc, err := Declared(map[string]string{spec.KeySocket: "/run/x/x.sock", key: kind})
			if want := kind == "container" || key == "other"; err != nil || (svc != nil) != want {
				t.Errorf("%s=%s: declared %v, %v; want %v", key, kind, svc != nil, err, want)
			}
		}
	}
}
