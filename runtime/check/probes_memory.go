package check

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

var memoryTests = []test{
	{Probe{
		Name: "memfd", Tests: "is there memfd_create", RequiredBy: []string{EngineFork}, LeastKernel: "3.17", WayOut: "use Linux 3.17 or later",
	}, testMemfd},
	{Probe{
		Name: "madv-collapse", Tests: "can memory be moved to huge pages from outside", UsefulFor: "quick checkpoints of large services",
		LeastKernel: "6.1", WayOut: "use Linux 6.1 or later with CONFIG_TRANSPARENT_HUGEPAGE",
	}, testCollapse},
	{Probe{
		Name: "transparent-hugepages", Tests: "may processes have huge pages", UsefulFor: "quick checkpoints of large services",
		WayOut: "write madvise to /sys/kernel/mm/transparent_hugepage/enabled",
	}, testTHP},
	{Probe{
		Name: "pagemap-scan", Tests: "does the kernel list pages by state", UsefulFor: "counting what a checkpoint changed", LeastKernel: "6.7",
		WayOut: "none needed: page tables are read page by page",
	}, testPagemapScan},
	{Probe{
		Name: "userfaultfd", Tests: "is there userfaultfd with asynchronous write protection", UsefulFor: "incremental images", LeastKernel: "6.7",
		WayOut: "use Linux 6.7 or later, as root or with vm.unprivileged_userfaultfd=1",
	}, testUserfaultfd},
	{Probe{
		Name: "soft-dirty", Tests: "does the kernel mark written pages", UsefulFor: "incremental images of CRIU", LeastKernel: "3.11",
		WayOut: "use a kernel with CONFIG_MEM_SOFT_DIRTY",
	}, testSoftDirty},
	{Probe{
		Name: "overcommit", Tests: "are copies of a process granted without reserving memory for all of it", UsefulFor: "many instances of large services",
		WayOut: "set vm.overcommit_memory to 0 or 1",
	}, testOvercommit},
	{Probe{
		Name: "xstate", Tests: "is the size of the processor state known", UsefulFor: "parking threads; it decides the size of a signal frame",
		WayOut: "none needed: the size is read from the threads themselves",
	}, testXstate},
}

func testMemfd() (string, error) {
	fd, err := unix.MemfdCreate("corsa-probe", unix.MFD_CLOEXEC)
	if err != nil {
		return "", judge("memfd_create", err)
	}
	return "", unix.Close(fd)
}

// testCollapse advises an empty range: the kernel checks the advice before the range.
func testCollapse() (string, error) {
	const madvCollapse = 25
	return withPage(func(page []byte) (string, error) {
		_, _, errno := unix.Syscall(unix.SYS_MADVISE, uintptr(unsafe.Pointer(&page[0])), 0, madvCollapse)
		if errno == unix.EINVAL {
			return "", absent("madvise: %v", errno)
		}
		if errno != 0 {
			return "", judge("madvise", errno)
		}
		return "", nil
	})
}

func testTHP() (string, error) {
	data, err := os.ReadFile("/sys/kernel/mm/transparent_hugepage/enabled")
	if errors.Is(err, os.ErrNotExist) {
		return "", absent("the kernel has none: %v", err)
	} else if err != nil {
		return "", err
	}
	mode := strings.TrimSpace(string(data))
	if strings.Contains(mode, "[never]") {
		return "", absent("%s", mode)
	}
	return mode, nil
}

// withPage calls f with a page of private memory that has been written.
func withPage(f func(page []byte) (string, error)) (detail string, err error) {
	page, err := unix.Mmap(-1, 0, os.Getpagesize(), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		return "", fmt.Errorf("mmap: %w", err)
	}
	defer func() {
		if uerr := unix.Munmap(page); err == nil && uerr != nil {
			err = fmt.Errorf("munmap: %w", uerr)
		}
	}()
	page[0] = 1
	return f(page)
}

// withPagemap calls f with such a page and this process's page table.
func withPagemap(f func(page []byte, pagemap *os.File) (string, error)) (string, error) {
	return withPage(func(page []byte) (string, error) {
		pagemap, err := os.Open("/proc/self/pagemap")
		if err != nil {
			return "", err
		}
		defer pagemap.Close()
		return f(page, pagemap)
	})
}

func testPagemapScan() (string, error) {
	return withPagemap(func(page []byte, pagemap *os.File) (string, error) {
		// struct pm_scan_arg of linux/fs.h, and PAGEMAP_SCAN, _IOWR('f', 16, struct pm_scan_arg).
		const request, pageIsPresent = 0xc0606610, 1 << 3
		start := uint64(uintptr(unsafe.Pointer(&page[0])))
		arg := struct {
			size, flags, start, end, walkEnd, vec, vecLen, maxPages       uint64
			categoryInverted, categoryMask, categoryAnyMask, returnedMask uint64
		}{
			start: start, end: start + uint64(len(page)), categoryMask: pageIsPresent, returnedMask: pageIsPresent,
		}
		arg.size = uint64(unsafe.Sizeof(arg))
		if _, _, errno := unix.Syscall(unix.SYS_IOCTL, pagemap.Fd(), request, uintptr(unsafe.Pointer(&arg))); errno != 0 {
			return "", judge("PAGEMAP_SCAN", errno)
		}
		if arg.walkEnd != arg.end {
			return "", fmt.Errorf("PAGEMAP_SCAN stopped at %#x, not at %#x", arg.walkEnd, arg.end)
		}
		return "", nil
	})
}

func testUserfaultfd() (string, error) {
	fd, _, errno := unix.Syscall(unix.SYS_USERFAULTFD, unix.O_CLOEXEC, 0, 0)
	if errno != 0 {
		return "", judge("userfaultfd", errno)
	}
	defer unix.Close(int(fd))
	// UFFDIO_API is _IOWR(0xaa, 0x3f, struct uffdio_api).
	const request, api, featureWPAsync = 0xc018aa3f, 0xaa, 1 << 15
	arg := struct{ api, features, ioctls uint64 }{api: api, features: featureWPAsync}
	_, _, errno = unix.Syscall(unix.SYS_IOCTL, fd, request, uintptr(unsafe.Pointer(&arg)))
	switch errno {
	case 0:
		return "", nil
	case unix.EINVAL:
		return "", absent("asynchronous write protection is not among its features")
	default:
		return "", judge("UFFDIO_API", errno)
	}
}

// testSoftDirty reads the bit of a page that was just written.
func testSoftDirty() (string, error) {
	return withPagemap(func(page []byte, pagemap *os.File) (string, error) {
		entry := make([]byte, 8)
		offset := int64(uintptr(unsafe.Pointer(&page[0]))) / int64(os.Getpagesize()) * 8
		if _, err := pagemap.ReadAt(entry, offset); err != nil {
			return "", err
		}
		const softDirty, present = 1 << 55, 1 << 63
		switch bits := binary.NativeEndian.Uint64(entry); {
		case bits&present == 0:
			return "", errors.New("the page was not present")
		case bits&softDirty == 0:
			return "", absent("a written page is not marked")
		}
		return "", nil
	})
}

func testOvercommit() (string, error) {
	mode, err := readNumber("/proc/sys/vm/overcommit_memory")
	if err != nil {
		return "", err
	}
	const never = 2
	if mode == never {
		return "", absent("vm.overcommit_memory is 2: every instance is charged in full")
	}
	return fmt.Sprintf("vm.overcommit_memory is %d", mode), nil
}

// testXstate reads AT_MINSIGSTKSZ, which the kernel sets to the size of a whole signal frame.
func testXstate() (string, error) {
	const atMinSigStkSz, entrySize = 51, 16
	data, err := os.ReadFile("/proc/self/auxv")
	if err != nil {
		return "", err
	}
	for ; len(data) >= entrySize; data = data[entrySize:] {
		if binary.NativeEndian.Uint64(data) == atMinSigStkSz {
			detail := fmt.Sprintf("a signal frame has %d bytes", binary.NativeEndian.Uint64(data[8:]))
			if extensions := vectorExtensions(); extensions != "" {
				detail += " (" + extensions + ")"
			}
			return detail, nil
		}
	}
	return "", absent("the kernel does not tell (AT_MINSIGSTKSZ)")
}
