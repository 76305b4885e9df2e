package mcp

// methods20251125 is what a client of 2025-11-25 may send in a session (schema, ClientRequest and ClientNotification). Its
// experimental tasks are not served.
var methods20251125 = map[string]Method{
	MethodInitialize:    {Class: Initialize},
	MethodPing:          {Class: Ping},
	MethodSetLevel:      {Class: SetLevel},
	MethodToolsList:     {Class: List, Kind: Tool, Key: "tools"},
	MethodResourcesList: {Class: List, Kind: Resource, Key: "resources"},
	MethodTemplatesList: {Class: List, Kind: Template, Key: "resourceTemplates"},
	MethodPromptsList:   {Class: List, Kind: Prompt, Key: "prompts"},
	MethodToolsCall:     {Class: Use, Kind: Tool, Param: "name", Action: MethodToolsCall},
	MethodResourcesRead: {Class: Use, Kind: Resource, Param: "uri", Action: MethodResourcesRead},
	MethodPromptsGet:    {Class: Use, Kind: Prompt, Param: "name", Action: MethodPromptsGet},
	MethodComplete:      {Class: Use, Param: "ref"},
	MethodSubscribe:     {Class: Watch, Kind: Resource, Param: "uri", Action: MethodResourcesRead},
	MethodUnsubscribe:   {Class: Watch, Kind: Resource, Param: "uri", Action: MethodResourcesRead},
	NotifyInitialized:   {Class: Notification},
	NotifyCancelled:     {Class: Notification},
	NotifyProgress:      {Class: Notification},
	NotifyRootsChanged:  {Class: Notification},
}
