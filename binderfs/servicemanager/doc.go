// Package servicemanager is the context manager of a Binder device: it keeps the services that processes publish under a
// name and hands out references to them, in the forms in which Android has done so since version 8 (see Variant). It is for
// sandboxes that bring none of their own. Client is the other side of it.
//
// It does what libbinder, libgbinder and programs on them need. It has no access control: who can open the device can add
// and get services. Names are given away when the process that has added them dies. Interfaces are not declared anywhere, so
// that no service is started when it is asked for.
package servicemanager
