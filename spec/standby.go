package spec

import (
	"slices"
	"strconv"
)

// MaxSpares bounds Service.Spares: each spare is as many processes as an app's instance.
const MaxSpares = 64

// ParseSpares reads how many instances are kept ready for new apps; 0 also means none for apps' checkpoints.
func ParseSpares(s string) (int, error) {
	n, err := strconv.ParseUint(s, 10, 31)
	if err != nil || n > MaxSpares {
		return 0, bad(LegalSpares, "%q is not a number of spares", s)
	}
	return int(n), nil
}

// HugePages says whether an engine makes huge pages of a service's memory, so that duplicating it costs less.
type HugePages string

// HugePagesOn is for all memory of a service, HugePagesAuto for memory that is in use nearly all, of a service that has enough
// of it to gain something; see docs/engine-fork.md.
// HugePagesOff leaves memory as the service and the kernel made it.
const (
	HugePagesAuto HugePages = "auto"
	HugePagesOn   HugePages = "on"
	HugePagesOff  HugePages = "off"
)

// ParseHugePages reads "auto", "on" or "off".
func ParseHugePages(s string) (HugePages, error) {
	h := HugePages(s)
	if slices.Contains([]HugePages{HugePagesAuto, HugePagesOn, HugePagesOff}, h) {
		return h, nil
	}
	return "", bad(LegalHugePages, "%q says nothing about huge pages", s)
}
