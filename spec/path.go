package spec

import "slices"

// Path says how an app's bytes get to its instance.
type Path string

// The paths. PathConnect and PathHandover are direct: the app's socket is the instance's own, and the gate never sees
// a byte. With PathConnect it is so from the beginning, where that works; otherwise, and with PathHandover, it is handed over
// once the service has accepted the connection. What cannot be handed over is proxied all the same.
const (
	PathAuto     Path = "auto"
	PathConnect  Path = "connect"
	PathHandover Path = "handover"
	PathProxied  Path = "proxied"
)

// ParsePath reads "auto", "connect", "handover" or "proxied".
func ParsePath(s string) (Path, error) {
	if p := Path(s); slices.Contains([]Path{PathAuto, PathConnect, PathHandover, PathProxied}, p) {
		return p, nil
	}
	return "", bad(LegalPath, "%q is not a path", s)
}

// NeedsBytes names the policy for which the gate has to see every request and reply, as KEY=VALUE without the prefix; ""
// if there is none.
func (s *Service) NeedsBytes() string {
	switch {
	case s.Checkpoint.Mode == CheckpointEvery:
		return "checkpoint=" + s.Checkpoint.String()
	case s.OnCrash.Mode == CrashRetry:
		return "on-crash=" + s.OnCrash.String()
	case s.CrashReply != "":
		return "crash-reply"
	}
	return ""
}

// DirectPath is how connections are to become direct, PathConnect or PathHandover; or PathProxied, and the reason for it.
//
// A direct connection ends when its instance crashes: nobody knows whether a request is under way on it. PathAuto therefore
// is direct only where a crash ends the app's connections anyway.
func (s *Service) DirectPath() (path Path, reason string) {
	switch s.Path {
	case PathProxied:
		return PathProxied, "path=proxied"
	case PathConnect, PathHandover:
		return s.Path, ""
	}
	if need := s.NeedsBytes(); need != "" {
		return PathProxied, need + " needs every request and reply"
	}
	if s.OnCrash.Mode != CrashStop {
		return PathProxied, "on-crash=" + s.OnCrash.String() + " keeps connections through a crash, which direct ones do not outlive"
	}
	return PathConnect, ""
}
