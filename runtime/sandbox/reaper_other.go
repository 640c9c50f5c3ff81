//go:build !amd64

package sandbox

import (
	"fmt"
	"runtime"
)

func reaperImage(int, string) ([]byte, error) {
	return nil, fmt.Errorf("the reaper is not available on %s; create the container without it", runtime.GOARCH)
}
