package uapi

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
)

// structs maps the names in the header to the Go types; fields are in the same order.
var structs = []struct {
	name   string
	fields string
	value  any
}{
	{"version", "size reserved major minor features", Version{}},
	{"refusal", "kind tid fd code addr", Refusal{}},
	{"attach", "size flags pidfd joined threads refusal_cap refusals refusal_count reserved", Attach{}},
	{"copy", "size flags src id cookie ns_stop ns_dup ns_total refusals refusal_cap refusal_count", Copy{}},
	{"restore", "size flags image instance ns_total refusals refusal_cap refusal_count", Restore{}},
	{"activate", "size flags id reserved timeout_ns ns", Activate{}},
	{"discard", "size id reserved", Discard{}},
	{"record_info", "id parent flags threads cookie born_ns signo code", Record{}},
	{"list", "size cap records count active last held", List{}},
	{"fd_op", "op flags fd src events reserved data", FDOp{}},
	{"fds", "size id ops count done", FDs{}},
	{"getfd", "size id fd reserved", GetFD{}},
	{"crash", "size policy standby limit window_ms reserved", Crash{}},
	{"event", "type id next tid signo code addr ns", Event{}},
	{
		"stats", "size reserved records threads copies activations swaps restores discards crashes eintr_hidden timeouts threads_held sum_ns hist",
		Stats{},
	},
	{"samples", "size flags which cap ns count reserved", Samples{}},
	{"memory", "size id resident unique swapped page_tables", Memory{}},
	{"detach", "size reserved", Detach{}},
	{"persist", "size reserved", Persist{}},
	{"binder_enable", "size flags key devices wait_ns hook reserved", BinderEnable{}},
	{"binder_route", "size flags key id every", BinderRoute{}},
	{"binder_route_info", "key id flags every since transactions oneway", BinderRouteInfo{}},
	{"binder_routes", "size cap routes count reserved", BinderRoutes{}},
	{
		"binder_stats", "size in_progress waiting tickets transactions oneway nested outgoing waits switches timeouts interrupted aborted buffer_faults wait_ns longest_wait_ns",
		BinderStats{},
	},
}

var requests = map[string]Request{
	"VERSION": ReqVersion, "ATTACH": ReqAttach, "CHECKPOINT": ReqCheckpoint, "BRANCH": ReqBranch, "RESTORE": ReqRestore,
	"ACTIVATE": ReqActivate, "DISCARD": ReqDiscard, "LIST": ReqList, "FDS": ReqFDs, "GETFD": ReqGetFD, "CRASH": ReqCrash,
	"STATS": ReqStats, "SAMPLES": ReqSamples, "MEMORY": ReqMemory, "DETACH": ReqDetach, "PERSIST": ReqPersist,
	"BINDER_ENABLE": ReqBinderEnable, "BINDER_ROUTE": ReqBinderRoute, "BINDER_ROUTES": ReqBinderRoutes, "BINDER_STATS": ReqBinderStats,
}

// TestLayout compares sizes, offsets, request numbers and constants with those that a C compiler takes from the header.
func TestLayout(t *testing.T) {
	gcc, err := exec.LookPath("gcc")
	if err != nil {
		t.Skip("there is no gcc to read the header with")
	}
	header, err := filepath.Abs("../../../uapi/corsa.h")
	if err != nil {
		t.Fatal(err)
	}
	var want bytes.Buffer
	var src strings.Builder
	fmt.Fprintf(&src, "#include <stddef.h>\n#include <stdio.h>\n#include %q\nint main(void) {\n", header)
	line := func(text, expr string, value any) {
		fmt.Fprintf(&want, "%s %v\n", text, value)
		fmt.Fprintf(&src, "printf(\"%s %%llu\\n\", (unsigned long long)(%s));\n", text, expr)
	}
	for _, s := range structs {
		typ := reflect.TypeOf(s.value)
		fields := strings.Fields(s.fields)
		if len(fields) != typ.NumField() {
			t.Fatalf("%s has %d fields in Go, the test knows %d", s.name, typ.NumField(), len(fields))
		}
		line("sizeof "+s.name, "sizeof(struct corsa_"+s.name+")", typ.Size())
		for i, f := range fields {
			line(s.name+"."+f, "offsetof(struct corsa_"+s.name+", "+f+")", typ.Field(i).Offset)
			line(s.name+"."+f+" size", "sizeof(((struct corsa_"+s.name+" *)0)->"+f+")", typ.Field(i).Type.Size())
		}
	}
	for name, req := range requests {
		line(name, "CORSA_IOC_"+name, uint32(req))
	}
	line("major", "CORSA_ABI_MAJOR", ABIMajor)
	line("none", "CORSA_NONE", None)
	line("refusals", "CORSA_REFUSE_MAX", RefusalMax)
	line("events", "CORSA_EVENT_MAX", EventMax)
	line("descriptor operations", "CORSA_FD_MAX", FDOpMax)
	line("crash policies", "CORSA_CRASH_MAX", CrashMax)
	line("kinds of Binder keys", "CORSA_BINDER_KEY_MAX", BinderKeyMax)
	line("histograms", "CORSA_HIST_COUNT", HistCount)
	line("buckets", "CORSA_HIST_BUCKETS", HistBuckets)
	src.WriteString("return 0; }\n")

	dir := t.TempDir()
	file, bin := filepath.Join(dir, "layout.c"), filepath.Join(dir, "layout")
	if err := os.WriteFile(file, []byte(src.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command(gcc, "-Wall", "-Wextra", "-Werror", "-o", bin, file).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	got, err := exec.Command(bin).Output()
	if err != nil {
		t.Fatal(err)
	}
	wantLines, gotLines := strings.Split(want.String(), "\n"), strings.Split(string(got), "\n")
	for i := range wantLines {
		if i >= len(gotLines) || wantLines[i] != gotLines[i] {
			t.Errorf("Go has %q, C has %q", wantLines[i], gotLines[i])
		}
	}
}
