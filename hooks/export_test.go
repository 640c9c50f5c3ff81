package hooks

// For tests of what a kernel without Binder can show.

type Number = number

func NewNumber(major, minor uint32) Number { return number{major, minor} }

var (
	Allow           = allow
	CgroupDirectory = cgroupDirectory
	Mapped          = mapped
)
