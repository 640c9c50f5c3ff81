package binder

import "fmt"

// ExceptionCode says what kind of error the method of a generated AIDL interface has ended with.
type ExceptionCode int32

// The exceptions of AIDL.
const (
	ExNone                 ExceptionCode = 0
	ExSecurity             ExceptionCode = -1
	ExBadParcelable        ExceptionCode = -2
	ExIllegalArgument      ExceptionCode = -3
	ExNullPointer          ExceptionCode = -4
	ExIllegalState         ExceptionCode = -5
	ExNetworkMainThread    ExceptionCode = -6
	ExUnsupportedOperation ExceptionCode = -7
	ExServiceSpecific      ExceptionCode = -8
	exReplyHeader          ExceptionCode = -128 // Java's way to pass strict mode data before the result
)

// Exception is the error of a method of a generated AIDL interface. See Parcel.WriteException and Reader.Exception.
type Exception struct {
	Code     ExceptionCode
	Message  string
	Specific int32 // error of the service's own, for ExServiceSpecific
}

func (e *Exception) Error() string {
	switch {
	case e.Code == ExServiceSpecific:
		return fmt.Sprintf("exception of the service, error %d: %s", e.Specific, e.Message)
	case e.Message == "":
		return fmt.Sprintf("exception %d", int32(e.Code))
	}
	return fmt.Sprintf("exception %d: %s", int32(e.Code), e.Message)
}
