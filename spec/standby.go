package spec

import "strconv"

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
