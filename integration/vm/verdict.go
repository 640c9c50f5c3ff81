package vm

import (
	"fmt"
	"regexp"
	"strings"
)

// KernelError says that the kernel of a VM complained about itself.
type KernelError struct {
	Kernel  string
	Line    string // the first complaint
	Console string // all that the kernel has said
}

func (e *KernelError) Error() string {
	return fmt.Sprintf("kernel %s: %s\n--- console ---\n%s", e.Kernel, e.Line, e.Console)
}

var (
	bare   = regexp.MustCompile(`(?m)Modules linked in:\s*$`)
	loaded = regexp.MustCompile(`Modules linked in: \S`)
)

// early reports whether the kernel died before there was a module in it: nothing that is tested had begun.
func (e *KernelError) early() bool {
	return strings.Contains(e.Console, "Kernel panic") && bare.MatchString(e.Console) && !loaded.MatchString(e.Console)
}

// Each of these is a fault of the kernel, of a module in it or of the VM, never of a program.
var complaints = regexp.MustCompile(strings.Join([]string{
	`Kernel panic`,
	`\bOops\b`,
	`\bBUG\b`, // also "BUG: KASAN", "BUG: sleeping function", "BUG: soft lockup", "BUG cache: Objects remaining"
	`WARNING: (CPU|possible|suspicious|inconsistent|bad|.* at )`,
	`INFO: (task .* blocked|rcu|possible|suspicious|trying to register)`,
	`rcu.*(detected|self-detected) (stall|expedited stall)`,
	`UBSAN:`,
	`KASAN:`,
	`refcount_t: `,
	`(list_add|list_del) corruption`,
	`unreferenced object`,
	`kmem_cache_destroy .*: `,
	`[Ll]eaked\b`,
	`scheduling while atomic`,
	`unable to handle`,
	`general protection fault, `, // a program's reads "traps: NAME[PID] general protection fault ip:…"
	`double fault`,
	`Out of memory: Killed process`, // the VM was too small; the test that it hit would not know why
	`stack-protector:`,
	`usercopy: Kernel memory`,
}, "|"))

// complaint returns the first line of the console at which the kernel found something wrong with itself, or "".
func complaint(console string) string {
	for line := range strings.Lines(console) {
		if complaints.MatchString(line) {
			return strings.TrimSpace(line)
		}
	}
	return ""
}
