package check

import "fmt"

// Engine names as they are written in --engine.
const (
	EngineFork = "fork"
	EngineKmod = "kmod"
	EngineCRIU = "criu"
)

// EngineStatus says whether the host has what an engine needs, and whether this program contains the engine.
type EngineStatus struct {
	Name string `json:"name"`
	// Built says that this version of corsa has the engine; Host that no requirement of it is missing here.
	Built bool `json:"built"`
	Host  bool `json:"host"`
	// Available is Built and Host.
	Available bool     `json:"available"`
	Missing   []string `json:"missing,omitempty"` // "probe: detail; way out: ..."
}

// engines in the order in which they are tried.
var engines = []struct {
	name  string
	built bool
}{
	{EngineKmod, true},
	{EngineFork, true},
	{EngineCRIU, false},
}

// judgeEngines derives each engine's status from its required probes. A probe that could not tell counts against the
// engine only if it says so by No: an attempt will show.
func judgeEngines(report *HostReport) []EngineStatus {
	var list []EngineStatus
	for _, engine := range engines {
		status := EngineStatus{Name: engine.name, Built: engine.built, Host: true}
		for i := range report.Probes {
			p := &report.Probes[i]
			if p.Result == No && requires(p, engine.name) {
				status.Host = false
				status.Missing = append(status.Missing, fmt.Sprintf("%s: %s; way out: %s", p.Name, p.Detail, p.WayOut))
			}
		}
		if !status.Built {
			status.Missing = append(status.Missing, "this version of corsa does not contain the engine")
		}
		status.Available = status.Built && status.Host
		list = append(list, status)
	}
	return list
}

func requires(p *Probe, engine string) bool {
	for _, name := range p.RequiredBy {
		if name == engine {
			return true
		}
	}
	return false
}
