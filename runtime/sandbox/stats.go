package sandbox

import (
	"fmt"

	"github.com/opencontainers/cgroups"
	"github.com/opencontainers/runc/libcontainer"
	"github.com/opencontainers/runc/libcontainer/intelrdt"
	"github.com/opencontainers/runc/types"
)

// Stats reads what the container's cgroup has counted, in the form in which runc prints it. ErrWrongState if it is stopped.
func (s *Sandbox) Stats() (*types.Stats, error) {
	if err := s.require("read statistics of", Created, Running, Paused); err != nil {
		return nil, err
	}
	st, err := s.container.Stats()
	if err != nil {
		return nil, s.wrap("statistics", err)
	}
	if st.CgroupStats == nil {
		return nil, s.wrap("statistics", fmt.Errorf("it has no cgroup"))
	}
	return convertStats(st), nil
}

// OutOfMemory returns a channel that receives whenever the kernel finds the container's memory limit exceeded. It is closed when
// the container's cgroup is removed.
func (s *Sandbox) OutOfMemory() (<-chan struct{}, error) {
	ch, err := s.container.NotifyOOM()
	return ch, s.wrap("watch memory", err)
}

func convertStats(from *libcontainer.Stats) *types.Stats {
	cg := from.CgroupStats
	var s types.Stats
	s.Pids.Current, s.Pids.Limit = cg.PidsStats.Current, cg.PidsStats.Limit
	u := &cg.CpuStats.CpuUsage
	s.CPU.Usage = types.CpuUsage{
		Total: u.TotalUsage, Percpu: u.PercpuUsage, Kernel: u.UsageInKernelmode, User: u.UsageInUsermode,
		PercpuKernel: u.PercpuUsageInKernelmode, PercpuUser: u.PercpuUsageInUsermode,
	}
	t := &cg.CpuStats.ThrottlingData
	s.CPU.Throttling = types.Throttling{Periods: t.Periods, ThrottledPeriods: t.ThrottledPeriods, ThrottledTime: t.ThrottledTime}
	s.CPU.PSI = cg.CpuStats.PSI
	s.CPUSet = types.CPUSet(cg.CPUSetStats)
	m := &cg.MemoryStats
	s.Memory = types.Memory{
		Cache: m.Cache, Raw: m.Stats, PSI: m.PSI, Usage: memoryEntry(m.Usage), Swap: memoryEntry(m.SwapUsage),
		Kernel: memoryEntry(m.KernelUsage), KernelTCP: memoryEntry(m.KernelTCPUsage),
	}
	b := &cg.BlkioStats
	s.Blkio = types.Blkio{
		IoServiceBytesRecursive: blkioEntries(b.IoServiceBytesRecursive), IoServicedRecursive: blkioEntries(b.IoServicedRecursive),
		IoQueuedRecursive: blkioEntries(b.IoQueuedRecursive), IoServiceTimeRecursive: blkioEntries(b.IoServiceTimeRecursive),
		IoWaitTimeRecursive: blkioEntries(b.IoWaitTimeRecursive), IoMergedRecursive: blkioEntries(b.IoMergedRecursive),
		IoTimeRecursive: blkioEntries(b.IoTimeRecursive), SectorsRecursive: blkioEntries(b.SectorsRecursive), PSI: b.PSI,
	}
	s.Hugetlb = map[string]types.Hugetlb{}
	for size, h := range cg.HugetlbStats {
		s.Hugetlb[size] = types.Hugetlb{Usage: h.Usage, Max: h.MaxUsage, Failcnt: h.Failcnt}
	}
	if from.IntelRdtStats != nil {
		s.IntelRdt = rdtStats(from.IntelRdtStats)
	}
	s.NetworkInterfaces = from.Interfaces
	return &s
}

func memoryEntry(m cgroups.MemoryData) types.MemoryEntry {
	return types.MemoryEntry{Limit: m.Limit, Usage: m.Usage, Max: m.MaxUsage, Failcnt: m.Failcnt}
}

func blkioEntries(from []cgroups.BlkioStatEntry) []types.BlkioEntry {
	var list []types.BlkioEntry
	for _, e := range from {
		list = append(list, types.BlkioEntry(e))
	}
	return list
}

func rdtStats(from *intelrdt.Stats) types.IntelRdt {
	s := types.IntelRdt{Schemata: from.Schemata}
	if intelrdt.IsCATEnabled() {
		s.L3CacheInfo = (*types.L3CacheInfo)(from.L3CacheInfo)
		s.L3CacheSchemaRoot, s.L3CacheSchema = from.L3CacheSchemaRoot, from.L3CacheSchema
	}
	if intelrdt.IsMBAEnabled() {
		s.MemBwInfo = (*types.MemBwInfo)(from.MemBwInfo)
		s.MemBwSchemaRoot, s.MemBwSchema = from.MemBwSchemaRoot, from.MemBwSchema
	}
	if intelrdt.IsMBMEnabled() {
		s.MBMStats = from.MBMStats
	}
	if intelrdt.IsCMTEnabled() {
		s.CMTStats = from.CMTStats
	}
	return s
}
