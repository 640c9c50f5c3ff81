package cli

import (
	"encoding/json"

	"github.com/opencontainers/runc/libcontainer/capabilities"
	"github.com/opencontainers/runc/libcontainer/configs"
	"github.com/opencontainers/runc/libcontainer/seccomp"
	"github.com/opencontainers/runc/libcontainer/specconv"
	runcfeatures "github.com/opencontainers/runc/types/features"
	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/opencontainers/runtime-spec/specs-go/features"
	"github.com/spf13/cobra"

	"corsa.dev/corsa/runtime/check"
	"corsa.dev/corsa/spec"
)

// featureDocument is the OCI document with a section of corsa's own beside it.
type featureDocument struct {
	features.Features
	Corsa corsaFeatures `json:"corsa"`
}

type corsaFeatures struct {
	Version     string               `json:"version"`
	Commit      string               `json:"commit,omitempty"`
	Engines     []check.EngineStatus `json:"engines"`
	Gates       []string             `json:"gates"`
	AppKeys     []spec.AppKey        `json:"appKeys"`
	Annotations []string             `json:"annotations"` // that a bundle may have
	Probes      []check.Probe        `json:"probes"`
}

func newFeaturesCommand(g *globals) *cobra.Command {
	var oci bool
	cmd := &cobra.Command{
		Use:   "features [flags]",
		Short: "Print what this program and this host can do, as JSON",
		Long: "The document is the one that the OCI runtime specification defines, with a member \"corsa\" added: the engines\n" +
			"and what they lack, the gates, the annotations of a bundle and the probes of the host. --oci leaves it out, for readers that\n" +
			"refuse members that they do not know; the host is not looked at then.",
		Args: takes(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			enc := json.NewEncoder(cmd.OutOrStdout())
			enc.SetIndent("", "    ")
			if oci {
				return enc.Encode(ociFeatures())
			}
			return enc.Encode(describeFeatures(g.CRIU))
		},
	}
	cmd.Flags().BoolVar(&oci, "oci", false, "print nothing but what the specification defines")
	// It prints nothing but JSON; the flag is there because every listing has it.
	cmd.Flags().Bool("json", true, "print JSON, which is the only form")
	return cmd
}

func describeFeatures(criuPath string) featureDocument {
	host := check.Host(criuPath)
	version, commit := buildVersion()
	return featureDocument{
		Features: ociFeatures(),
		Corsa: corsaFeatures{
			Version: version, Commit: commit, Engines: host.Engines, Probes: host.Probes,
			Gates:       []string{spec.Default().Gate},
			AppKeys:     []spec.AppKey{spec.AppKeyUID, spec.AppKeyPID, spec.AppKeyCgroup, spec.AppKeyConnection},
			Annotations: spec.Keys(),
		},
	}
}

// Annotations of the document that are corsa's own.
const (
	annotationVersion = "dev.corsa.version"
	annotationCommit  = "dev.corsa.commit"
)

// ociFeatures says what libcontainer does for us; it does not look at the host. Of runc's annotations it has those that say what
// corsa can do, but not runc's version.
func ociFeatures() features.Features {
	yes := true
	version, commit := buildVersion()
	f := features.Features{
		OCIVersionMin: "1.0.0",
		OCIVersionMax: specs.Version,
		Hooks:         configs.KnownHookNames(),
		MountOptions:  specconv.KnownMountOptions(),
		Annotations:   map[string]string{runcfeatures.AnnotationRuncCheckpointEnabled: "true", annotationVersion: version},
		Linux: &features.Linux{
			Namespaces:      specconv.KnownNamespaces(),
			Capabilities:    capabilities.KnownCapabilities(),
			Cgroup:          &features.Cgroup{V1: &yes, V2: &yes, Systemd: &yes, SystemdUser: &yes, Rdma: &yes},
			Seccomp:         seccompFeatures(),
			Apparmor:        &features.Apparmor{Enabled: &yes},
			Selinux:         &features.Selinux{Enabled: &yes},
			IntelRdt:        &features.IntelRdt{Enabled: &yes, Schemata: &yes, Monitoring: &yes},
			MemoryPolicy:    &features.MemoryPolicy{Modes: specconv.KnownMemoryPolicyModes(), Flags: specconv.KnownMemoryPolicyFlags()},
			MountExtensions: &features.MountExtensions{IDMap: &features.IDMap{Enabled: &yes}},
			NetDevices:      &features.NetDevices{Enabled: &yes},
		},
		PotentiallyUnsafeConfigAnnotations: []string{"bundle", spec.Prefix, "org.criu.config", "org.systemd.property."},
	}
	if commit != "" {
		f.Annotations[annotationCommit] = commit
	}
	if seccomp.Enabled {
		f.Annotations[runcfeatures.AnnotationLibseccompVersion] = libseccompVersion()
	}
	return f
}

func seccompFeatures() *features.Seccomp {
	enabled := seccomp.Enabled
	f := &features.Seccomp{Enabled: &enabled}
	if enabled {
		f.Actions, f.Operators, f.Archs = seccomp.KnownActions(), seccomp.KnownOperators(), seccomp.KnownArchs()
		f.KnownFlags, f.SupportedFlags = seccomp.KnownFlags(), seccomp.SupportedFlags()
	}
	return f
}
