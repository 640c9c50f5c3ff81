package cli

import (
	"fmt"
	"io"
	"math"
	"os"
	"strconv"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"corsa.dev/corsa/runtime/sandbox"
	"corsa.dev/corsa/spec"
)

// updateFlags are limits as flags. They fill in an OCI document, which is what --resources has ready.
type updateFlags struct {
	file      string
	rdt       sandbox.RDT
	resources specs.LinuxResources
	memory    specs.LinuxMemory
	cpu       specs.LinuxCPU
	blockIO   specs.LinuxBlockIO
	pids      specs.LinuxPids
}

func newUpdateCommand(g *globals) *cobra.Command {
	var f updateFlags
	cmd := &cobra.Command{
		Use:   "update [flags] ID",
		Short: "Change the limits of a container",
		Long: "Update changes the limits that are given, by flags or by a JSON document with members memory, cpu, blockIO, pids and\n" +
			"unified as in linux.resources of config.json, and leaves the others as they are. It is all of them or none: if the\n" +
			"kernel refuses one, the others get their old values again.",
		Example: "  corsa update --memory 512M --pids-limit 100 web\n" +
			"  echo '{\"cpu\": {\"quota\": 50000}}' | corsa update --resources - web",
		Args: takes("ID"),
		RunE: func(cmd *cobra.Command, args []string) error {
			r, err := f.read(cmd)
			if err != nil {
				return err
			}
			s, err := sandbox.Load(g.Root, args[0])
			if err != nil {
				return err
			}
			for _, name := range sandbox.Unchangeable(r) {
				g.Log.Warnf("update: %s of a container cannot be changed and is left as it is", name)
			}
			if r.Memory != nil && (r.Memory.Kernel != nil || r.Memory.KernelTCP != nil) { //nolint:staticcheck // obsolete, and said to be
				g.Log.Warn("update: limits of kernel memory no longer exist and are ignored")
			}
			return s.Update(r, f.rdt)
		},
	}
	f.add(cmd.Flags())
	return cmd
}

func (f *updateFlags) add(fs *pflag.FlagSet) {
	fs.StringVarP(&f.file, "resources", "r", "", "file with the limits as JSON, - for standard input; instead of the flags below")
	number := func(name, usage string, parse func(string) error) { fs.Func(name, usage, parse) }
	number("memory", "limit of memory in bytes, with B, K, M, G, T or P; -1 for none", memory(&f.memory.Limit))
	number("memory-reservation", "soft limit of memory in bytes", memory(&f.memory.Reservation))
	number("memory-swap", "limit of memory and swap together in bytes; -1 for none", memory(&f.memory.Swap))
	number("kernel-memory", "ignored", memory(&f.memory.Kernel)) //nolint:staticcheck // obsolete: accepted and ignored
	number("kernel-memory-tcp", "ignored", memory(&f.memory.KernelTCP))
	number("cpu-period", "period of --cpu-quota in microseconds", unsigned(&f.cpu.Period))
	number("cpu-quota", "CPU time per period in microseconds; -1 for no limit", signed(&f.cpu.Quota))
	number("cpu-burst", "unused CPU time that may be saved up, in microseconds", unsigned(&f.cpu.Burst))
	number("cpu-share", "share of CPU time compared to others", unsigned(&f.cpu.Shares))
	number("cpu-rt-period", "period of --cpu-rt-runtime in microseconds", unsigned(&f.cpu.RealtimePeriod))
	number("cpu-rt-runtime", "realtime CPU time per period in microseconds", signed(&f.cpu.RealtimeRuntime))
	number("cpu-idle", "1: run only when nothing else wants to; 0: as usual", signed(&f.cpu.Idle))
	fs.StringVar(&f.cpu.Cpus, "cpuset-cpus", "", "CPUs to use, such as 0-2,4")
	fs.StringVar(&f.cpu.Mems, "cpuset-mems", "", "memory nodes to use")
	number("blkio-weight", "share of block I/O compared to others, 10 to 1000; 0 leaves it as it is", f.setWeight)
	number("pids-limit", "limit of processes and threads; -1 for none", signed(&f.pids.Limit))
	fs.StringVar(&f.rdt.L3CacheSchema, "l3-cache-schema", "", "Intel RDT schema of the L3 cache")
	fs.StringVar(&f.rdt.MemBwSchema, "mem-bw-schema", "", "Intel RDT schema of memory bandwidth")
	for _, name := range []string{"kernel-memory", "kernel-memory-tcp"} {
		fs.Lookup(name).Hidden = true
	}
}

// read is the document of --resources, or the one that the flags make.
func (f *updateFlags) read(cmd *cobra.Command) (*specs.LinuxResources, error) {
	f.resources = specs.LinuxResources{Memory: &f.memory, CPU: &f.cpu, BlockIO: &f.blockIO, Pids: &f.pids}
	if f.file == "" {
		return &f.resources, nil
	}
	if err := onlyWith(cmd, "--resources has the limits", "resources", "l3-cache-schema", "mem-bw-schema"); err != nil {
		return nil, err
	}
	data, err := readFileOrStdin(f.file)
	if err != nil {
		return nil, fmt.Errorf("--resources: %w", err)
	}
	var r *specs.LinuxResources
	if err := spec.Unmarshal(data, &r); err != nil {
		return nil, fmt.Errorf("--resources %s: %w", f.file, err)
	}
	if r == nil {
		return nil, fmt.Errorf("--resources %s: must be an object, not null", f.file)
	}
	return r, nil
}

func readFileOrStdin(path string) ([]byte, error) {
	if path == "-" {
		return io.ReadAll(os.Stdin)
	}
	return os.ReadFile(path)
}

// onlyWith is a usage error if a flag of cmd's own other than those in allowed is set.
func onlyWith(cmd *cobra.Command, why string, allowed ...string) error {
	names := map[string]bool{}
	for _, name := range allowed {
		names[name] = true
	}
	var stray error
	cmd.Flags().Visit(func(flag *pflag.Flag) {
		if cmd.InheritedFlags().Lookup(flag.Name) == nil && !names[flag.Name] && stray == nil {
			stray = usagef("--%s: %s; use one or the other", flag.Name, why)
		}
	})
	return stray
}

func (f *updateFlags) setWeight(s string) error {
	n, err := strconv.ParseUint(s, 10, 16)
	if err != nil {
		return errNumber
	}
	if n != 0 {
		f.blockIO.Weight = new(uint16(n))
	}
	return nil
}

var errNumber = fmt.Errorf("must be a number")

// An empty value leaves the limit as it is, as with runc.
func signed(to **int64) func(string) error {
	return func(s string) error {
		if s == "" {
			return nil
		}
		n, err := strconv.ParseInt(s, 10, 64)
		if err != nil {
			return errNumber
		}
		*to = &n
		return nil
	}
}

func unsigned(to **uint64) func(string) error {
	return func(s string) error {
		if s == "" {
			return nil
		}
		n, err := strconv.ParseUint(s, 10, 64)
		if err != nil {
			return errNumber
		}
		*to = &n
		return nil
	}
}

func memory(to **int64) func(string) error {
	return func(s string) error {
		if s == "" {
			return nil
		}
		n, err := parseMemory(s)
		if err != nil {
			return err
		}
		*to = &n
		return nil
	}
}

// parseMemory reads what runc reads: a number, with a fraction perhaps, and b, k, kb or kib and so on, in any case. Kilo is
// 1024. -1 is no limit.
func parseMemory(s string) (int64, error) {
	bad := fmt.Errorf("must be a number of bytes, such as 1048576, 512M or 1.5GiB, or -1")
	if s == "-1" {
		return -1, nil
	}
	digits := strings.TrimRight(strings.ToLower(s), "bikmgtp ")
	unit := strings.TrimLeft(strings.ToLower(s)[len(digits):], " ")
	n, err := strconv.ParseFloat(digits, 64)
	if err != nil || n < 0 || strings.ContainsAny(digits, "ex_n") {
		return 0, bad
	}
	if unit != "" && unit != "b" {
		power := strings.IndexByte("kmgtp", unit[0])
		if rest := unit[1:]; power < 0 || rest != "" && rest != "b" && rest != "ib" {
			return 0, bad
		}
		n *= math.Pow(1024, float64(power+1))
	}
	if n >= math.MaxInt64 {
		return 0, bad
	}
	return int64(n), nil
}
