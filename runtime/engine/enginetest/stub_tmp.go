package enginetest
import ("testing";"corsa.dev/corsa/runtime/engine")
func isHelper() bool { return false }
func runHelper(t *testing.T, newEngine func(t *testing.T) engine.Engine) {}
func (s *suite) refused(t *testing.T, p program) {}
func (s *suite) scenarios() map[string]func(t *testing.T) { return nil }
