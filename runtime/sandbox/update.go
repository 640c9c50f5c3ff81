package sandbox

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/opencontainers/cgroups"
	"github.com/opencontainers/runc/libcontainer/intelrdt"
	"github.com/opencontainers/runtime-spec/specs-go"
)

// RDT are the Intel RDT schemata to change; "" leaves one as it is.
type RDT struct {
	L3CacheSchema string
	MemBwSchema   string
}

// Update changes the limits of a container that is not stopped. What r does not name stays as it is; device rules, huge
// page limits, network and RDMA settings cannot be changed (see Unchangeable). If the kernel refuses one of the values, all
// have their old ones again.
func (s *Sandbox) Update(r *specs.LinuxResources, rdt RDT) error {
	if err := s.require("update", Created, Running, Paused); err != nil {
		return err
	}
	config := s.container.Config()
	old := config.Cgroups.Resources
	changed := *old
	setResources(&changed, r)
	// The device rules may have been changed by others since, a GPU's tools for instance.
	changed.SkipDevices = true
	if err := checkRDT(rdt, config.IntelRdt != nil); err != nil {
		return s.wrap("update", err)
	}
	if rdt != (RDT{}) {
		schemata := *config.IntelRdt
		schemata.L3CacheSchema = cmp.Or(rdt.L3CacheSchema, schemata.L3CacheSchema)
		schemata.MemBwSchema = cmp.Or(rdt.MemBwSchema, schemata.MemBwSchema)
		config.IntelRdt = &schemata
	}
	cgroup := *config.Cgroups
	config.Cgroups = &cgroup
	cgroup.Resources = &changed
	back := s.presentResources(old, &changed)
	err := s.container.Set(config)
	if err == nil {
		return nil
	}
	// libcontainer has set back what had a value; what had none still has the new one.
	cgroup.Resources = back
	config.IntelRdt = s.container.Config().IntelRdt
	if berr := s.container.Set(config); berr != nil {
		err = errors.Join(err, fmt.Errorf("set the old values again: %w", berr))
	}
	return s.wrap("update", err)
}

func checkRDT(rdt RDT, has bool) error {
	switch {
	case rdt.L3CacheSchema != "" && !intelrdt.IsCATEnabled():
		return errors.New("--l3-cache-schema: this host has no L3 cache allocation, or /sys/fs/resctrl is not mounted")
	case rdt.MemBwSchema != "" && !intelrdt.IsMBAEnabled():
		return errors.New("--mem-bw-schema: this host has no memory bandwidth allocation, or /sys/fs/resctrl is not mounted")
	case rdt != (RDT{}) && !has:
		return errors.New("the container was created without linux.intelRdt, so it has no Intel RDT group whose schemata could be changed")
	}
	return nil
}

// Unchangeable names what r has and Update leaves as it is.
func Unchangeable(r *specs.LinuxResources) []string {
	var names []string
	if len(r.HugepageLimits) > 0 {
		names = append(names, "hugepageLimits")
	}
	if r.Network != nil {
		names = append(names, "network")
	}
	if len(r.Rdma) > 0 {
		names = append(names, "rdma")
	}
	return names
}

// setResources changes in c what r has a value for.
func setResources(c *cgroups.Resources, r *specs.LinuxResources) {
	if r.Memory != nil {
		setMemory(c, r.Memory)
	}
	if r.CPU != nil {
		setCPU(c, r.CPU)
	}
	if r.BlockIO != nil {
		setBlockIO(c, r.BlockIO)
	}
	if r.Pids != nil && r.Pids.Limit != nil {
		c.PidsLimit = r.Pids.Limit
	}
	if r.Unified != nil {
		c.Unified = r.Unified
	}
}

func setMemory(c *cgroups.Resources, m *specs.LinuxMemory) {
	set(&c.Memory, m.Limit)
	set(&c.MemoryReservation, m.Reservation)
	set(&c.MemorySwap, m.Swap)
	set(&c.MemoryCheckBeforeUpdate, m.CheckBeforeUpdate)
	if m.Limit != nil && *m.Limit == -1 && m.Swap == nil {
		c.MemorySwap = 0 // a limit of both makes no sense without one of memory
	}
}

func setCPU(c *cgroups.Resources, p *specs.LinuxCPU) {
	set(&c.CpuQuota, p.Quota)
	set(&c.CpuPeriod, p.Period)
	set(&c.CpuRtPeriod, p.RealtimePeriod)
	set(&c.CpuRtRuntime, p.RealtimeRuntime)
	if p.Burst != nil {
		c.CpuBurst = p.Burst
	}
	c.CpusetCpus = cmp.Or(p.Cpus, c.CpusetCpus)
	c.CpusetMems = cmp.Or(p.Mems, c.CpusetMems)
	if p.Shares != nil {
		c.CpuShares, c.CpuWeight = *p.Shares, cgroups.ConvertCPUSharesToCgroupV2Value(*p.Shares)
	}
	if p.Idle != nil {
		c.CPUIdle = p.Idle
		if p.Shares == nil {
			c.CpuShares, c.CpuWeight = 0, 0 // the kernel takes no weight for an idle group
		}
	}
}

func setBlockIO(c *cgroups.Resources, b *specs.LinuxBlockIO) {
	set(&c.BlkioWeight, b.Weight)
	set(&c.BlkioLeafWeight, b.LeafWeight)
	c.BlkioWeightDevice = weights(c.BlkioWeightDevice, b.WeightDevice)
	c.BlkioThrottleReadBpsDevice = throttles(c.BlkioThrottleReadBpsDevice, b.ThrottleReadBpsDevice)
	c.BlkioThrottleWriteBpsDevice = throttles(c.BlkioThrottleWriteBpsDevice, b.ThrottleWriteBpsDevice)
	c.BlkioThrottleReadIOPSDevice = throttles(c.BlkioThrottleReadIOPSDevice, b.ThrottleReadIOPSDevice)
	c.BlkioThrottleWriteIOPSDevice = throttles(c.BlkioThrottleWriteIOPSDevice, b.ThrottleWriteIOPSDevice)
}

func set[T any](to, from *T) {
	if from != nil {
		*to = *from
	}
}

// weights is old with the devices of changes changed or added. old is left as it is.
func weights(old []*cgroups.WeightDevice, changes []specs.LinuxWeightDevice) []*cgroups.WeightDevice {
	list := slices.Clone(old)
	for _, d := range changes {
		at := slices.IndexFunc(list, func(w *cgroups.WeightDevice) bool { return w.Major == d.Major && w.Minor == d.Minor })
		w := cgroups.NewWeightDevice(d.Major, d.Minor, 0, 0)
		if at < 0 {
			list = append(list, w)
		} else {
			*w = *list[at]
			list[at] = w
		}
		set(&w.Weight, d.Weight)
		set(&w.LeafWeight, d.LeafWeight)
	}
	return list
}

// throttles is old with the devices of changes changed or added. old is left as it is.
func throttles(old []*cgroups.ThrottleDevice, changes []specs.LinuxThrottleDevice) []*cgroups.ThrottleDevice {
	list := slices.Clone(old)
	for _, d := range changes {
		at := slices.IndexFunc(list, func(t *cgroups.ThrottleDevice) bool { return t.Major == d.Major && t.Minor == d.Minor })
		t := cgroups.NewThrottleDevice(d.Major, d.Minor, d.Rate)
		if at < 0 {
			list = append(list, t)
		} else {
			list[at] = t
		}
	}
	return list
}

// presentResources is old with a value for all that changed has one for: what the kernel has where nobody set it.
func (s *Sandbox) presentResources(old, changed *cgroups.Resources) *cgroups.Resources {
	back := *old
	back.SkipDevices = true
	unlimited := int64(-1)
	for _, v := range []struct {
		old     *int64
		changed int64
	}{
		{&back.Memory, changed.Memory},
		{&back.MemoryReservation, changed.MemoryReservation},
		{&back.MemorySwap, changed.MemorySwap},
		{&back.CpuQuota, changed.CpuQuota},
	} {
		if *v.old == 0 && v.changed != 0 {
			*v.old = unlimited
		}
	}
	if back.CpuPeriod == 0 && changed.CpuPeriod != 0 {
		back.CpuPeriod = 100_000
	}
	if back.CpuShares == 0 && changed.CpuShares != 0 {
		back.CpuShares, back.CpuWeight = 1024, 100
	}
	if back.PidsLimit == nil && changed.PidsLimit != nil {
		back.PidsLimit = &unlimited
	}
	if back.CpusetCpus == "" && changed.CpusetCpus != "" {
		back.CpusetCpus = s.cpuset("cpuset.cpus")
	}
	if back.CpusetMems == "" && changed.CpusetMems != "" {
		back.CpusetMems = s.cpuset("cpuset.mems")
	}
	return &back
}

// cpuset is what that file of the container's cgroup says; "" if there is none, which changes nothing.
func (s *Sandbox) cpuset(name string) string {
	st, err := s.container.State()
	if err != nil {
		return ""
	}
	data, err := os.ReadFile(filepath.Join(cmp.Or(st.CgroupPaths["cpuset"], st.CgroupPaths[""]), name))
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(data))
}
