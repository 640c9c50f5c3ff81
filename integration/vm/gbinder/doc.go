// Package gbinder tests the Binder packages against programs that are not ours: libgbinder's tools, python3-gbinder and
// Waydroid's clipboard service, as Debian has them. The script fetch gets them.
package gbinder
