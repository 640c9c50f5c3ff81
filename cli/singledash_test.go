package cli

import (
	"strings"
	"testing"

	"github.com/sirupsen/logrus"
)

func TestLongFlagsWithOneDash(t *testing.T) {
	for args, want := range map[string]string{
		"restore -no-subreaper --detach x":      "restore --no-subreaper --detach x",
		"-root /r -debug restore -image-path=d": "--root /r --debug restore --image-path=d",
		"-root -debug list":                     "--root -debug list", // the value of --root
		"run -bundle -detach x -detach":         "run --bundle -detach x -detach",
		"run -b -detach -keep x":                "run -b -detach --keep x",
		"run -db -keep x":                       "run -db -keep x", // -d and -b with a value
		"run -d -keep x":                        "run -d --keep x",
		"exec -tty x ls -detach":                "exec --tty x ls -detach",
		"exec -- -tty":                          "exec -- -tty",
		"kill -nosuch x":                        "kill -nosuch x",
		"nosuch -root x":                        "nosuch -root x",
		"--root=/r -log-format=json state x":    "--root=/r --log-format=json state x",
		"-v":                                    "-v",
		"-":                                     "-",
		"-version":                              "--version",
	} {
		root, _ := newRootCommand(&globals{Log: logrus.New()})
		if got := strings.Join(doubleDashes(root, strings.Fields(args)), " "); got != want {
			t.Errorf("%s: %s, want %s", args, got, want)
		}
	}
}
