package datapath

// The reasons of [Flow], [FlowPacket] and [PacketKind]: why packets were dropped,
// and from ReasonTTLExceeded on what else is remarkable about those that were not.
const (
	ReasonNone            = uint8(stateReasonREASON_NONE)
	ReasonPolicy          = uint8(stateReasonREASON_POLICY_DENIED)
	ReasonSpoofed         = uint8(stateReasonREASON_SPOOFED)
	ReasonInvalidPacket   = uint8(stateReasonREASON_INVALID_PACKET)
	ReasonFragmentUnknown = uint8(stateReasonREASON_FRAGMENT_UNKNOWN)
	ReasonUnknownL4       = uint8(stateReasonREASON_UNKNOWN_L4)
	ReasonNoEndpoint      = uint8(stateReasonREASON_NO_ENDPOINT)
	ReasonNoRoute         = uint8(stateReasonREASON_NO_ROUTE)
	ReasonSourceRouted    = uint8(stateReasonREASON_SOURCE_ROUTED)
	ReasonNotIP           = uint8(stateReasonREASON_NOT_IP)
	ReasonTTLExceeded     = uint8(stateReasonREASON_TTL_EXCEEDED)
	ReasonTooBig          = uint8(stateReasonREASON_TOO_BIG)
	ReasonAudited         = uint8(stateReasonREASON_AUDITED)
)
