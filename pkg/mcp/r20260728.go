package mcp

// methods20260728 is the complete list of client methods of 2026-07-28 (schema, ClientRequest). It has no client notifications over
// HTTP. initialize, ping, logging/setLevel, resources/subscribe and resources/unsubscribe were removed by it.
var methods20260728 = map[string]Method{
	MethodDiscover:      {Class: Discover},
	MethodToolsList:     {Class: List, Kind: Tool, Key: "tools"},
	MethodResourcesList: {Class: List, Kind: Resource, Key: "resources"},
	MethodTemplatesList: {Class: List, Kind: Template, Key: "resourceTemplates"},
	MethodPromptsList:   {Class: List, Kind: Prompt, Key: "prompts"},
	MethodToolsCall:     {Class: Use, Kind: Tool, Param: "name", Action: MethodToolsCall, Mirrored: true},
	MethodResourcesRead: {Class: Use, Kind: Resource, Param: "uri", Action: MethodResourcesRead, Mirrored: true},
	MethodPromptsGet:    {Class: Use, Kind: Prompt, Param: "name", Action: MethodPromptsGet, Mirrored: true},
	MethodComplete:      {Class: Use, Param: "ref"},
	MethodListen:        {Class: Listen},
}
