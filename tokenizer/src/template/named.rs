//! Chat templates by name, for files that have none or a wrong one: llama.cpp's names, and what its own templates of these
//! names write (`src/llama-chat.cpp`).

/// How the turns of a role are written.
struct Turn {
    /// The role, or `*` for every other.
    role: &'static str,
    /// Before what is said; `{role}` is the role.
    before: &'static str,
    after: &'static str,
    /// Whether white space around what is said is left out.
    trim: bool,
}

const fn turn(role: &'static str, before: &'static str, after: &'static str) -> Turn {
    Turn { role, before, after, trim: false }
}

const fn trimmed(role: &'static str, before: &'static str, after: &'static str) -> Turn {
    Turn { role, before, after, trim: true }
}

/// A template.
enum Form {
    /// The turns one after the other.
    Turns {
        /// Before the first.
        start: &'static str,
        turns: &'static [Turn],
        /// The beginning of an answer.
        answer: &'static str,
    },
    /// Jinja, where a turn depends on others.
    Jinja(&'static str),
}

struct Named {
    name: &'static str,
    form: Form,
}

const fn turns(name: &'static str, turns: &'static [Turn], answer: &'static str) -> Named {
    Named { name, form: Form::Turns { start: "", turns, answer } }
}

const fn started(
    name: &'static str,
    start: &'static str,
    turns: &'static [Turn],
    answer: &'static str,
) -> Named {
    Named { name, form: Form::Turns { start, turns, answer } }
}

const fn jinja(name: &'static str, source: &'static str) -> Named {
    Named { name, form: Form::Jinja(source) }
}

const NAMED: &[Named] = &[
    turns(
        "chatml",
        &[turn("*", "<|im_start|>{role}\n", "<|im_end|>\n")],
        "<|im_start|>assistant\n",
    ),
    jinja(
        "llama2",
        concat!(
            "[INST] ",
            "{% for m in messages %}{% if not loop.first and loop.previtem.role not in ['system', 'user'] %}[INST] {% endif %}{% if m.role == 'system' %}{{ m.content }}\n{% elif m.role == 'user' %}{{ m.content }} [/INST]{% else %}{{ m.content }}</s>{% endif %}{% endfor %}"
        ),
    ),
    jinja(
        "llama2-sys",
        concat!(
            "[INST] ",
            "{% for m in messages %}{% if not loop.first and loop.previtem.role not in ['system', 'user'] %}[INST] {% endif %}{% if m.role == 'system' %}<<SYS>>\n{{ m.content }}\n<</SYS>>\n\n{% elif m.role == 'user' %}{{ m.content }} [/INST]{% else %}{{ m.content }}</s>{% endif %}{% endfor %}"
        ),
    ),
    jinja(
        "llama2-sys-bos",
        concat!(
            "[INST] ",
            "{% for m in messages %}{% if not loop.first and loop.previtem.role not in ['system', 'user'] %}<s>[INST] {% endif %}{% if m.role == 'system' %}<<SYS>>\n{{ m.content }}\n<</SYS>>\n\n{% elif m.role == 'user' %}{{ m.content }} [/INST]{% else %}{{ m.content }}</s>{% endif %}{% endfor %}"
        ),
    ),
    jinja(
        "llama2-sys-strip",
        concat!(
            "[INST] ",
            "{% for m in messages %}{% if not loop.first and loop.previtem.role not in ['system', 'user'] %}[INST] {% endif %}{% if m.role == 'system' %}<<SYS>>\n{{ m.content | trim }}\n<</SYS>>\n\n{% elif m.role == 'user' %}{{ m.content | trim }} [/INST]{% else %}{{ m.content | trim }}</s>{% endif %}{% endfor %}"
        ),
    ),
    jinja(
        "mistral-v1",
        "{% for m in messages %}{% if loop.first or loop.previtem.role not in ['system', 'user'] %} [INST] {% endif %}{% if m.role == 'system' %}{{ m.content }}\n\n{% elif m.role == 'user' %}{{ m.content }} [/INST]{% else %} {{ m.content }}</s>{% endif %}{% endfor %}",
    ),
    jinja(
        "mistral-v3",
        "{% for m in messages %}{% if loop.first or loop.previtem.role not in ['system', 'user'] %}[INST] {% endif %}{% if m.role == 'system' %}{{ m.content }}\n\n{% elif m.role == 'user' %}{{ m.content }}[/INST]{% else %} {{ m.content | trim }}</s>{% endif %}{% endfor %}",
    ),
    jinja(
        "mistral-v3-tekken",
        "{% for m in messages %}{% if loop.first or loop.previtem.role not in ['system', 'user'] %}[INST]{% endif %}{% if m.role == 'system' %}{{ m.content }}\n\n{% elif m.role == 'user' %}{{ m.content }}[/INST]{% else %}{{ m.content }}</s>{% endif %}{% endfor %}",
    ),
    turns(
        "mistral-v7",
        &[
            turn("system", "[SYSTEM_PROMPT] ", "[/SYSTEM_PROMPT]"),
            turn("user", "[INST] ", "[/INST]"),
            turn("*", " ", "</s>"),
        ],
        "",
    ),
    turns(
        "mistral-v7-tekken",
        &[
            turn("system", "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]"),
            turn("user", "[INST]", "[/INST]"),
            turn("*", "", "</s>"),
        ],
        "",
    ),
    turns("phi3", &[turn("*", "<|{role}|>\n", "<|end|>\n")], "<|assistant|>\n"),
    turns(
        "phi4",
        &[turn("*", "<|im_start|>{role}<|im_sep|>", "<|im_end|>")],
        "<|im_start|>assistant<|im_sep|>",
    ),
    turns("falcon3", &[turn("*", "<|{role}|>\n", "\n")], "<|assistant|>\n"),
    turns("zephyr", &[turn("*", "<|{role}|>\n", "<|endoftext|>\n")], "<|assistant|>\n"),
    jinja(
        "monarch",
        "{% for m in messages %}{% if not loop.first %}<s>{% endif %}{{ m.role }}\n{{ m.content }}</s>\n{% endfor %}{% if add_generation_prompt %}<s>assistant\n{% endif %}",
    ),
    jinja(
        "gemma",
        "{% set ns = namespace(system='') %}{% for m in messages %}{% if m.role == 'system' %}{% set ns.system = ns.system + (m.content | trim) %}{% else %}<start_of_turn>{{ 'model' if m.role == 'assistant' else m.role }}\n{% if ns.system and m.role not in ['assistant', 'model'] %}{{ ns.system }}\n\n{% set ns.system = '' %}{% endif %}{{ m.content | trim }}<end_of_turn>\n{% endif %}{% endfor %}{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}",
    ),
    jinja(
        "orion",
        "{% set ns = namespace(system='') %}{% for m in messages %}{% if m.role == 'system' %}{% set ns.system = ns.system + m.content %}{% elif m.role == 'user' %}Human: {% if ns.system %}{{ ns.system }}\n\n{% set ns.system = '' %}{% endif %}{{ m.content }}\n\nAssistant: </s>{% else %}{{ m.content }}</s>{% endif %}{% endfor %}",
    ),
    turns(
        "openchat",
        &[
            turn("system", "", "<|end_of_turn|>"),
            turn("user", "GPT4 Correct User: ", "<|end_of_turn|>"),
            turn("assistant", "GPT4 Correct Assistant: ", "<|end_of_turn|>"),
        ],
        "GPT4 Correct Assistant:",
    ),
    turns(
        "vicuna",
        &[
            turn("system", "", "\n\n"),
            turn("user", "USER: ", "\n"),
            turn("assistant", "ASSISTANT: ", "</s>\n"),
        ],
        "ASSISTANT:",
    ),
    turns(
        "vicuna-orca",
        &[
            turn("system", "SYSTEM: ", "\n"),
            turn("user", "USER: ", "\n"),
            turn("assistant", "ASSISTANT: ", "</s>\n"),
        ],
        "ASSISTANT:",
    ),
    turns(
        "deepseek",
        &[
            turn("system", "", ""),
            turn("user", "### Instruction:\n", "\n"),
            turn("assistant", "### Response:\n", "\n<|EOT|>\n"),
        ],
        "### Response:\n",
    ),
    turns(
        "deepseek2",
        &[
            turn("system", "", "\n\n"),
            turn("user", "User: ", "\n\n"),
            turn("assistant", "Assistant: ", "<｜end▁of▁sentence｜>"),
        ],
        "Assistant:",
    ),
    turns(
        "deepseek3",
        &[
            turn("system", "", "\n\n"),
            turn("user", "<｜User｜>", ""),
            turn("assistant", "<｜Assistant｜>", "<｜end▁of▁sentence｜>"),
        ],
        "<｜Assistant｜>",
    ),
    turns("deepseek-ocr", &[turn("*", "", "")], ""),
    turns(
        "command-r",
        &[
            trimmed("system", "<|START_OF_TURN_TOKEN|><|SYSTEM_TOKEN|>", "<|END_OF_TURN_TOKEN|>"),
            trimmed("user", "<|START_OF_TURN_TOKEN|><|USER_TOKEN|>", "<|END_OF_TURN_TOKEN|>"),
            trimmed(
                "assistant",
                "<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>",
                "<|END_OF_TURN_TOKEN|>",
            ),
        ],
        "<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>",
    ),
    turns(
        "llama3",
        &[trimmed("*", "<|start_header_id|>{role}<|end_header_id|>\n\n", "<|eot_id|>")],
        "<|start_header_id|>assistant<|end_header_id|>\n\n",
    ),
    started("chatglm3", "[gMASK]sop", &[turn("*", "<|{role}|>\n ", "")], "<|assistant|>"),
    started("chatglm4", "[gMASK]<sop>", &[turn("*", "<|{role}|>\n", "")], "<|assistant|>\n"),
    turns("glmedge", &[turn("*", "<|{role}|>\n", "")], "<|assistant|>"),
    turns("minicpm", &[trimmed("user", "<用户>", "<AI>"), trimmed("*", "", "")], ""),
    turns(
        "exaone3",
        &[
            trimmed("system", "[|system|]", "[|endofturn|]\n"),
            trimmed("user", "[|user|]", "\n"),
            trimmed("assistant", "[|assistant|]", "[|endofturn|]\n"),
        ],
        "[|assistant|]",
    ),
    turns(
        "exaone4",
        &[
            trimmed("system", "[|system|]", "[|endofturn|]\n"),
            trimmed("user", "[|user|]", "\n"),
            trimmed("assistant", "[|assistant|]", "[|endofturn|]\n"),
            trimmed("tool", "[|tool|]", "[|endofturn|]\n"),
        ],
        "[|assistant|]",
    ),
    turns("exaone-moe", &[trimmed("*", "<|{role}|>\n", "<|endofturn|>\n")], "<|assistant|>\n"),
    jinja(
        "rwkv-world",
        "{% for m in messages %}{% if m.role == 'system' %}System: {{ m.content | trim }}\n\n{% elif m.role == 'user' %}User: {{ m.content | trim }}\n\n{% if loop.last %}Assistant:{% endif %}{% elif m.role == 'assistant' %}Assistant: {{ m.content | trim }}\n\n{% endif %}{% endfor %}",
    ),
    turns(
        "granite",
        &[
            turn(
                "assistant_tool_call",
                "<|start_of_role|>assistant_tool_call<|end_of_role|><|tool_call|>",
                "<|end_of_text|>\n",
            ),
            turn("*", "<|start_of_role|>{role}<|end_of_role|>", "<|end_of_text|>\n"),
        ],
        "<|start_of_role|>assistant<|end_of_role|>",
    ),
    turns("granite-4.0", GRANITE_4, "<|start_of_role|>assistant<|end_of_role|>"),
    turns("granite-4.1", GRANITE_4, "<|start_of_role|>assistant<|end_of_role|>"),
    jinja(
        "gigachat",
        "<s>{% for m in messages %}{% if m.role == 'system' and loop.first %}{{ m.content }}<|message_sep|>{% elif m.role == 'user' %}user<|role_sep|>{{ m.content }}<|message_sep|>available functions<|role_sep|>[]<|message_sep|>{% elif m.role == 'assistant' %}assistant<|role_sep|>{{ m.content }}<|message_sep|>{% endif %}{% endfor %}{% if add_generation_prompt %}assistant<|role_sep|>{% endif %}",
    ),
    turns(
        "megrez",
        &[turn("*", "<|role_start|>{role}<|role_end|>", "<|turn_end|>")],
        "<|role_start|>assistant<|role_end|>",
    ),
    turns(
        "yandex",
        &[turn("user", " Пользователь: ", "\n\n"), turn("assistant", " Ассистент: ", "\n\n")],
        " Ассистент:[SEP]",
    ),
    turns("bailing", BAILING, "<role>ASSISTANT</role>"),
    turns("bailing-think", BAILING, "<role>ASSISTANT</role><think>"),
    jinja(
        "bailing2",
        "{% if not messages or messages[0].role != 'system' %}<role>SYSTEM</role>detailed thinking off<|role_end|>{% endif %}{% for m in messages %}<role>{{ 'HUMAN' if m.role == 'user' else m.role | upper }}</role>{{ m.content }}<|role_end|>{% endfor %}{% if add_generation_prompt %}<role>ASSISTANT</role>{% endif %}",
    ),
    turns(
        "llama4",
        &[trimmed("*", "<|header_start|>{role}<|header_end|>\n\n", "<|eot|>")],
        "<|header_start|>assistant<|header_end|>\n\n",
    ),
    started(
        "smolvlm",
        "<|im_start|>",
        &[
            turn("system", "", "\n\n"),
            turn("user", "User: ", "<end_of_utterance>\n"),
            turn("*", "Assistant: ", "<end_of_utterance>\n"),
        ],
        "Assistant:",
    ),
    turns(
        "hunyuan-moe",
        &[
            turn("system", "<|startoftext|>", "<|extra_4|>"),
            turn("assistant", "", "<|eos|>"),
            turn("*", "<|startoftext|>", "<|extra_0|>"),
        ],
        "",
    ),
    turns(
        "gpt-oss",
        &[
            turn("assistant", "<|start|>assistant<|message|>", "<|return|>"),
            turn("*", "<|start|>{role}<|message|>", "<|end|>"),
        ],
        "<|start|>assistant",
    ),
    jinja(
        "hunyuan-dense",
        "{% for m in messages %}{% if loop.first and m.role == 'system' %}{{ m.content }}<｜hy_place▁holder▁no▁3｜>{% endif %}{% if m.role == 'assistant' %}<｜hy_Assistant｜>{{ m.content }}<｜hy_place▁holder▁no▁2｜>{% elif m.role == 'user' %}<｜hy_User｜>{{ m.content }}<｜hy_Assistant｜>{% endif %}{% endfor %}",
    ),
    jinja(
        "hunyuan-vl",
        "<｜hy_begin▁of▁sentence｜>{% for m in messages %}{% if loop.first and m.role == 'system' %}{{ m.content }}<｜hy_place▁holder▁no▁3｜>{% elif m.role == 'user' %}{{ m.content }}<｜hy_User｜>{% elif m.role == 'assistant' %}{{ m.content }}<｜hy_Assistant｜>{% endif %}{% endfor %}",
    ),
    turns(
        "kimi-k2",
        &[
            turn("system", "<|im_system|>system<|im_middle|>", "<|im_end|>"),
            turn("user", "<|im_user|>user<|im_middle|>", "<|im_end|>"),
            turn("assistant", "<|im_assistant|>assistant<|im_middle|>", "<|im_end|>"),
            turn("tool", "<|im_system|>tool<|im_middle|>", "<|im_end|>"),
            turn("*", "", "<|im_end|>"),
        ],
        "<|im_assistant|>assistant<|im_middle|>",
    ),
    turns(
        "seed_oss",
        &[
            trimmed("assistant", "<seed:bos>assistant\n", "<seed:eos>"),
            turn("*", "<seed:bos>{role}\n", "<seed:eos>"),
        ],
        "<seed:bos>assistant\n",
    ),
    turns(
        "grok-2",
        &[
            trimmed("system", "System: ", "<|separator|>\n\n"),
            trimmed("user", "Human: ", "<|separator|>\n\n"),
            turn("assistant", "Assistant: ", "<|separator|>\n\n"),
        ],
        "Assistant:",
    ),
    jinja(
        "pangu-embedded",
        "{% if messages and messages[0].role != 'system' %}[unused9]系统：[unused10]{% endif %}{% for m in messages %}{% if m.role == 'system' %}[unused9]系统：{{ m.content }}[unused10]{% elif m.role == 'user' %}[unused9]用户：{{ m.content }}[unused10]{% elif m.role == 'assistant' %}[unused9]助手：{{ m.content }}[unused10]{% elif m.role == 'tool' %}[unused9]工具：{{ m.content }}[unused10]{% elif m.role == 'function' %}[unused9]方法：{{ m.content }}[unused10]{% endif %}{% endfor %}{% if add_generation_prompt %}[unused9]助手：{% endif %}",
    ),
    turns(
        "solar-open",
        &[turn("*", "<|begin|>{role}<|content|>", "<|end|>")],
        "<|begin|>assistant",
    ),
];

const GRANITE_4: &[Turn] = &[
    turn(
        "assistant_tool_call",
        "<|start_of_role|>assistant<|end_of_role|><|tool_call|>",
        "<|end_of_text|>\n",
    ),
    turn("*", "<|start_of_role|>{role}<|end_of_role|>", "<|end_of_text|>\n"),
];
const BAILING: &[Turn] = &[
    turn("user", "<role>HUMAN</role>", ""),
    turn("system", "<role>SYSTEM</role>", ""),
    turn("assistant", "<role>ASSISTANT</role>", ""),
];

/// The names, in llama.cpp's order.
pub fn template_names() -> impl Iterator<Item = &'static str> {
    NAMED.iter().map(|named| named.name)
}

/// The source of a template by its name.
pub(super) fn source(name: &str) -> Option<String> {
    let found = NAMED.iter().find(|named| named.name == name)?;
    Some(match &found.form {
        Form::Jinja(source) => (*source).to_owned(),
        Form::Turns { start, turns, answer } => in_jinja(start, turns, answer),
    })
}

/// One `if` for each role.
fn in_jinja(start: &str, turns: &[Turn], answer: &str) -> String {
    let mut source = format!("{start}{{% for m in messages %}}");
    for (i, Turn { role, before, after, trim }) in turns.iter().enumerate() {
        match (*role, i) {
            ("*", 0) => {}
            ("*", _) => source.push_str("{% else %}"),
            (role, 0) => source.push_str(&format!("{{% if m.role == '{role}' %}}")),
            (role, _) => source.push_str(&format!("{{% elif m.role == '{role}' %}}")),
        }
        source.push_str(&before.replace("{role}", "{{ m.role }}"));
        source.push_str(if *trim { "{{ m.content | trim }}" } else { "{{ m.content }}" });
        source.push_str(after);
    }
    source.push_str(if turns[0].role == "*" { "" } else { "{% endif %}" });
    // In `{{ }}`: white space at the end of a template is easily lost.
    let answer = answer.replace('\n', "\\n");
    source + "{% endfor %}{% if add_generation_prompt %}{{ '" + &answer + "' }}{% endif %}"
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Chat, ChatTemplate, Message};

    /// What llama.cpp's templates of a name write, by `tools/golden_templates.py`.
    #[test]
    fn every_name_writes_what_llama_cpp_s_does() {
        let cases: Vec<serde_json::Value> =
            serde_json::from_str(include_str!("../../tests/templates.json")).unwrap();
        let text = |value: &serde_json::Value| value.as_str().unwrap().to_owned();
        for case in &cases {
            let name = text(&case["name"]);
            let source = source(&name).unwrap_or_else(|| panic!("no template {name}"));
            let template = ChatTemplate::new(&source).unwrap();
            let turns = case["chat"].as_array().unwrap().iter();
            let messages: Vec<Message> =
                turns.map(|turn| Message::new(text(&turn[0]), text(&turn[1]))).collect();
            let add_generation_prompt = case["answer"].as_bool().unwrap();
            let chat = Chat { messages: &messages, add_generation_prompt, ..Chat::default() };
            assert_eq!(template.render(&chat).unwrap(), text(&case["text"]), "{case}");
        }
        let mut names: Vec<&str> =
            cases.iter().map(|case| case["name"].as_str().unwrap()).collect();
        names.dedup();
        let mut ours: Vec<&str> = template_names().collect();
        ours.sort_unstable();
        assert_eq!(names, ours);
    }
}
