//! A pickle machine that builds a tree and does nothing else.
//!
//! A pickle goes in; the objects that it describes come out, as a [`Tree`] of nodes that refer to each other by
//! number. Calls of the few functions that make tensors become notes of their arguments; every other call is refused
//! by the name of what would have been called. Only the opcodes that `torch.save` uses are known.
//!
//! Nodes lie in one list, so nothing here or later descends by recursion, however deeply a pickle nests, and objects
//! that hold themselves do no harm. Every opcode adds at most one value, text stays in the file, and values are
//! counted, so memory is bounded by [`MOST_VALUES`].

use std::collections::HashMap;

use super::globals::{Element, Global};
use crate::error::{Error, Result};
use crate::file::short;

/// A pickle takes a few hundred bytes for a tensor; the largest models have some ten thousand.
pub(super) const MOST_BYTES: u64 = 64 << 20;

/// Values pushed, marks and memo entries together. A tensor takes about thirty.
const MOST_VALUES: usize = 1 << 21;

/// A value on the stack or in a node.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Value<'p> {
    None,
    Bool(bool),
    Int(i64),
    /// An integer of more than 64 bits: little-endian two's complement.
    Long(&'p [u8]),
    Float(f64),
    Text(&'p str),
    /// The number of a node.
    Node(usize),
}

/// A value that is more than a number or a text.
#[derive(Debug)]
enum Node<'p> {
    Tuple(Vec<Value<'p>>),
    List(Vec<Value<'p>>),
    Dict(Vec<(Value<'p>, Value<'p>)>),
    Global(Global<'p>),
    Storage(Storage<'p>),
    Tensor(Box<Tensor<'p>>),
}

/// A note of a storage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Storage<'p> {
    /// Its name in the file.
    pub(super) key: &'p str,
    pub(super) element: Element<'p>,
    /// How many elements it has; bytes, if it is untyped.
    pub(super) numel: usize,
}

/// A note of a tensor.
#[derive(Clone, Copy, Debug)]
pub(super) struct Tensor<'p> {
    pub(super) storage: Storage<'p>,
    pub(super) element: Element<'p>,
    /// The element of the storage where it begins.
    pub(super) offset: Value<'p>,
    /// The tuple of its extents.
    pub(super) size: Value<'p>,
    /// The tuple of its steps in the storage, in elements.
    pub(super) stride: Value<'p>,
    /// Whether its numbers are negated or conjugated when they are read.
    pub(super) altered: bool,
}

/// The objects that a pickle describes.
#[derive(Debug, Default)]
pub(super) struct Tree<'p> {
    nodes: Vec<Node<'p>>,
}

impl<'p> Tree<'p> {
    /// What a value stands for, if it is a node.
    fn node(&self, value: Value<'p>) -> Option<&Node<'p>> {
        match value {
            Value::Node(number) => self.nodes.get(number),
            _ => None,
        }
    }

    /// The items of a tuple.
    pub(super) fn tuple(&self, value: Value<'p>) -> Option<&[Value<'p>]> {
        match self.node(value)? {
            Node::Tuple(items) => Some(items),
            _ => None,
        }
    }

    /// The items of a list.
    pub(super) fn list(&self, value: Value<'p>) -> Option<&[Value<'p>]> {
        match self.node(value)? {
            Node::List(items) => Some(items),
            _ => None,
        }
    }

    /// The items of a dict, in the order in which they were set.
    pub(super) fn dict(&self, value: Value<'p>) -> Option<&[(Value<'p>, Value<'p>)]> {
        match self.node(value)? {
            Node::Dict(items) => Some(items),
            _ => None,
        }
    }

    /// A tensor.
    pub(super) fn tensor(&self, value: Value<'p>) -> Option<&Tensor<'p>> {
        match self.node(value)? {
            Node::Tensor(tensor) => Some(tensor),
            _ => None,
        }
    }

    /// The storages that were noted.
    pub(super) fn storages(&self) -> impl Iterator<Item = &Storage<'p>> {
        self.nodes.iter().filter_map(|node| match node {
            Node::Storage(storage) => Some(storage),
            _ => None,
        })
    }

    fn storage(&self, value: Value<'p>) -> Option<Storage<'p>> {
        match self.node(value)? {
            Node::Storage(storage) => Some(*storage),
            _ => None,
        }
    }

    fn global(&self, value: Value<'p>) -> Option<Global<'p>> {
        match self.node(value)? {
            Node::Global(global) => Some(*global),
            _ => None,
        }
    }
}

/// What a pickle comes to.
#[derive(Debug)]
pub(super) struct Unpickled<'p> {
    pub(super) tree: Tree<'p>,
    /// The object that it describes.
    pub(super) root: Value<'p>,
    /// Its length: where in the bytes the next one begins.
    pub(super) len: usize,
}

/// Runs the pickle that `bytes` begin with.
///
/// # Errors
/// It is broken, uses opcodes that `torch.save` doesn't, is too large, or calls anything that doesn't make tensors.
pub(super) fn load(bytes: &[u8]) -> Result<Unpickled<'_>> {
    let mut machine = Machine {
        bytes,
        at: 0,
        stack: Vec::new(),
        marks: Vec::new(),
        memo: HashMap::new(),
        tree: Tree::default(),
        values: 0,
        foreign: None,
    };
    while machine.step()? {}
    let root = machine.pop()?;
    Ok(Unpickled { tree: machine.tree, root, len: machine.at })
}

struct Machine<'p> {
    bytes: &'p [u8],
    at: usize,
    stack: Vec<Value<'p>>,
    /// Where in the stack the open marks are.
    marks: Vec<usize>,
    memo: HashMap<u32, Value<'p>>,
    tree: Tree<'p>,
    values: usize,
    /// The first name that was mentioned and is not known.
    foreign: Option<(&'p str, &'p str)>,
}

impl<'p> Machine<'p> {
    /// Runs one opcode; `false` when it was the last.
    fn step(&mut self) -> Result<bool> {
        let opcode = self.byte()?;
        match opcode {
            // PROTO, FRAME: nothing depends on them.
            0x80 => drop(self.byte()?),
            0x95 => drop(self.array::<8>()?),
            // STOP
            b'.' => return Ok(false),
            // MARK
            b'(' => {
                self.count()?;
                self.marks.push(self.stack.len());
            }

            // NONE, NEWTRUE, NEWFALSE
            b'N' => self.push(Value::None)?,
            0x88 => self.push(Value::Bool(true))?,
            0x89 => self.push(Value::Bool(false))?,
            // BININT, BININT1, BININT2, LONG1
            b'J' => {
                let int = i32::from_le_bytes(self.array()?);
                self.push(Value::Int(int.into()))?;
            }
            b'K' => {
                let int = self.byte()?;
                self.push(Value::Int(int.into()))?;
            }
            b'M' => {
                let int = u16::from_le_bytes(self.array()?);
                self.push(Value::Int(int.into()))?;
            }
            0x8a => {
                let len = self.byte()?;
                let long = self.take(len.into())?;
                self.push(integer(long))?;
            }
            // BINFLOAT
            b'G' => {
                let float = f64::from_be_bytes(self.array()?);
                self.push(Value::Float(float))?;
            }
            // BINUNICODE, SHORT_BINUNICODE, SHORT_BINSTRING
            b'X' => {
                let len = u32::from_le_bytes(self.array()?);
                self.text(len as usize)?;
            }
            0x8c | b'U' => {
                let len = self.byte()?;
                self.text(len.into())?;
            }

            // BINPUT, LONG_BINPUT, MEMOIZE
            b'q' => {
                let index = self.byte()?;
                self.put(index.into())?;
            }
            b'r' => {
                let index = u32::from_le_bytes(self.array()?);
                self.put(index)?;
            }
            0x94 => self.put(self.memo.len() as u32)?,
            // BINGET, LONG_BINGET
            b'h' => {
                let index = self.byte()?;
                self.get(index.into())?;
            }
            b'j' => {
                let index = u32::from_le_bytes(self.array()?);
                self.get(index)?;
            }

            // EMPTY_TUPLE, TUPLE1, TUPLE2, TUPLE3, TUPLE
            b')' => self.tuple(0)?,
            0x85..=0x87 => self.tuple(usize::from(opcode - 0x84))?,
            b't' => {
                let items = self.marked()?;
                self.push_node(Node::Tuple(items))?;
            }
            // EMPTY_LIST, APPEND, APPENDS
            b']' => self.push_node(Node::List(Vec::new()))?,
            b'a' => {
                let item = self.pop()?;
                self.append(&[item])?;
            }
            b'e' => {
                let items = self.marked()?;
                self.append(&items)?;
            }
            // EMPTY_DICT, SETITEM, SETITEMS
            b'}' => self.push_node(Node::Dict(Vec::new()))?,
            b's' => {
                let (value, key) = (self.pop()?, self.pop()?);
                self.set_items(&[key, value])?;
            }
            b'u' => {
                let items = self.marked()?;
                self.set_items(&items)?;
            }

            // GLOBAL, STACK_GLOBAL
            b'c' => {
                let (module, name) = (self.line()?, self.line()?);
                self.global(module, name)?;
            }
            0x93 => match (self.pop()?, self.pop()?) {
                (Value::Text(name), Value::Text(module)) => self.global(module, name)?,
                _ => return Err(self.broken("a name is not a text")),
            },
            // REDUCE, NEWOBJ
            b'R' | 0x81 => {
                let (arguments, callable) = (self.pop()?, self.pop()?);
                self.call(callable, arguments)?;
            }
            // INST: refused for its name, whatever it is; torch.save has no use for it.
            b'i' => {
                let (module, name) = (self.line()?, self.line()?);
                return Err(refuse_call(module, name));
            }
            // BUILD
            b'b' => {
                self.pop()?;
                self.build()?;
            }
            // BINPERSID
            b'Q' => {
                let id = self.pop()?;
                self.persistent(id)?;
            }
            _ => {
                return Err(
                    self.broken(&format!("the opcode {opcode:#04x} is not one that torch.save writes"))
                );
            }
        }
        Ok(true)
    }

    /// An error at this place. If a name was mentioned that models don't need, it says that too: it may be the reason.
    fn broken(&self, what: &str) -> Error {
        let names = match self.foreign {
            Some((module, name)) => format!("; it names {}", dotted(module, name)),
            None => String::new(),
        };
        Error::format(format!("the pickle is broken before its byte {}: {what}{names}", self.at))
    }

    fn take(&mut self, len: usize) -> Result<&'p [u8]> {
        let end = self.at.checked_add(len).filter(|end| *end <= self.bytes.len());
        let end = end.ok_or_else(|| self.broken("it is cut short"))?;
        let taken = &self.bytes[self.at..end];
        self.at = end;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        let taken = self.take(N)?;
        taken.try_into().map_err(|_| Error::internal("as many bytes as were asked for"))
    }

    fn byte(&mut self) -> Result<u8> {
        let [byte] = self.array()?;
        Ok(byte)
    }

    fn line(&mut self) -> Result<&'p str> {
        let rest = &self.bytes[self.at..];
        let len = rest.iter().position(|byte| *byte == b'\n');
        let len = len.ok_or_else(|| self.broken("a name has no end"))?;
        let line = std::str::from_utf8(self.take(len)?).map_err(|_| self.broken("a name is not UTF-8"))?;
        self.at += 1;
        Ok(line)
    }

    fn text(&mut self, len: usize) -> Result<()> {
        let bytes = self.take(len)?;
        let text = std::str::from_utf8(bytes).map_err(|_| self.broken("a text is not UTF-8"))?;
        self.push(Value::Text(text))
    }

    fn count(&mut self) -> Result<()> {
        self.values += 1;
        if self.values > MOST_VALUES {
            return Err(
                self.broken(&format!("it makes more than {MOST_VALUES} objects, and no model needs as many"))
            );
        }
        Ok(())
    }

    fn push(&mut self, value: Value<'p>) -> Result<()> {
        self.count()?;
        self.stack.push(value);
        Ok(())
    }

    fn push_node(&mut self, node: Node<'p>) -> Result<()> {
        self.push(Value::Node(self.tree.nodes.len()))?;
        self.tree.nodes.push(node);
        Ok(())
    }

    /// The lowest place that the values above the last mark may be popped to.
    fn floor(&self) -> usize {
        self.marks.last().copied().unwrap_or(0)
    }

    fn pop(&mut self) -> Result<Value<'p>> {
        if self.stack.len() > self.floor()
            && let Some(value) = self.stack.pop()
        {
            return Ok(value);
        }
        Err(self.broken("a value is missing"))
    }

    /// The values above the last mark, which is closed.
    fn marked(&mut self) -> Result<Vec<Value<'p>>> {
        let mark = self.marks.pop().ok_or_else(|| self.broken("a mark is missing"))?;
        Ok(self.above(mark))
    }

    /// Takes the values above a place of the stack, with no more room than they need. (Not by `split_off`, which may
    /// hand out the stack's own room: a pickle could make it large, and then take it often.)
    fn above(&mut self, place: usize) -> Vec<Value<'p>> {
        self.stack.drain(place..).collect()
    }

    /// The node that the topmost value stands for.
    fn top(&mut self) -> Option<&mut Node<'p>> {
        if self.stack.len() <= self.floor() {
            return None;
        }
        match self.stack.last()? {
            Value::Node(number) => self.tree.nodes.get_mut(*number),
            _ => None,
        }
    }

    fn put(&mut self, index: u32) -> Result<()> {
        self.count()?;
        if index as usize >= MOST_VALUES {
            return Err(self.broken(&format!("no model needs {index} memo entries")));
        }
        let value = self.pop()?;
        self.stack.push(value);
        self.memo.insert(index, value);
        Ok(())
    }

    fn get(&mut self, index: u32) -> Result<()> {
        match self.memo.get(&index) {
            Some(value) => self.push(*value),
            None => Err(self.broken(&format!("nothing was put under the memo's number {index}"))),
        }
    }

    fn tuple(&mut self, len: usize) -> Result<()> {
        let below = self.stack.len().checked_sub(len).filter(|below| *below >= self.floor());
        let below = below.ok_or_else(|| self.broken("a value is missing"))?;
        let items = self.above(below);
        self.push_node(Node::Tuple(items))
    }

    fn append(&mut self, items: &[Value<'p>]) -> Result<()> {
        match self.top() {
            Some(Node::List(list)) => list.extend_from_slice(items),
            _ => return Err(self.broken("items are appended to what is no list")),
        }
        Ok(())
    }

    fn set_items(&mut self, items: &[Value<'p>]) -> Result<()> {
        let (pairs, rest) = items.as_chunks::<2>();
        match self.top() {
            Some(Node::Dict(dict)) if rest.is_empty() => {
                dict.extend(pairs.iter().map(|[key, value]| (*key, *value)));
                Ok(())
            }
            Some(Node::Dict(_)) => Err(self.broken("a key has no value")),
            _ => Err(self.broken("items are set in what is no dict")),
        }
    }

    fn global(&mut self, module: &'p str, name: &'p str) -> Result<()> {
        let global = Global::named(module, name);
        if matches!(global, Global::Foreign { .. }) {
            self.foreign.get_or_insert((module, name));
        }
        self.push_node(Node::Global(global))
    }

    /// REDUCE and NEWOBJ: the only place where Python would run something, and where it does not.
    fn call(&mut self, callable: Value<'p>, arguments: Value<'p>) -> Result<()> {
        let global = self.tree.global(callable).ok_or_else(|| self.broken("it calls what is no function"))?;
        if let Global::Foreign { module, name } = global {
            return Err(refuse_call(module, name));
        }
        let Some(arguments) = self.tree.tuple(arguments) else {
            return Err(self.broken("the arguments of a call are no tuple"));
        };
        let tensor = |storage: Storage<'p>, element, metadata: Option<&Value<'p>>| {
            let [_, offset, size, stride, ..] = *arguments else { return None };
            let altered = metadata.is_some_and(|metadata| self.is_altered(*metadata));
            Some(Tensor { storage, element, offset, size, stride, altered })
        };
        // What exists already is referred to, not copied, or a small pickle could make large objects.
        let same = match (global, arguments) {
            (Global::Size, [extents]) if self.tree.tuple(*extents).is_some() => Some(*extents),
            (Global::RebuildParameter, [tensor, ..]) if self.tree.tensor(*tensor).is_some() => Some(*tensor),
            _ => None,
        };
        if let Some(value) = same {
            return self.push(value);
        }
        let made = match (global, arguments) {
            (Global::OrderedDict, []) => Some(Node::Dict(Vec::new())),
            (Global::RebuildTensor, [storage, ..]) => self
                .tree
                .storage(*storage)
                .and_then(|storage| tensor(storage, storage.element, arguments.get(6)))
                .map(|tensor| Node::Tensor(Box::new(tensor))),
            (Global::RebuildTensorAs, [storage, _, _, _, _, _, dtype, ..]) => self
                .element(*dtype)
                .zip(self.tree.storage(*storage))
                .and_then(|(element, storage)| tensor(storage, element, arguments.get(7)))
                .map(|tensor| Node::Tensor(Box::new(tensor))),
            _ => None,
        };
        match made {
            Some(node) => self.push_node(node),
            None => Err(self.broken("the arguments of a call are not what torch.save writes")),
        }
    }

    /// A dtype that stands where an argument is expected.
    fn element(&self, dtype: Value<'p>) -> Option<Element<'p>> {
        match self.tree.global(dtype)? {
            Global::Dtype(dtype) => Some(Element::Of(dtype)),
            Global::Foreign { name, .. } => Some(Element::Foreign(name)),
            _ => None,
        }
    }

    /// Whether a tensor's metadata, a dict such as `{'neg': True}`, asks for anything.
    fn is_altered(&self, metadata: Value<'p>) -> bool {
        let quiet = |value: &Value<'_>| matches!(value, Value::Bool(false) | Value::None);
        match self.tree.dict(metadata) {
            Some(items) => items.iter().any(|(_, value)| !quiet(value)),
            None => metadata != Value::None,
        }
    }

    /// BUILD, after its state was popped: attributes of a dict, such as the versions of a model's modules, tell nothing
    /// about tensors.
    fn build(&mut self) -> Result<()> {
        match self.top() {
            Some(Node::Dict(_)) => Ok(()),
            Some(Node::Global(Global::Foreign { module, name })) => Err(refuse_call(module, name)),
            _ => Err(self.broken("a state is given to what is no dict")),
        }
    }

    /// BINPERSID: `('storage', class, key, location, numel)`, in the oldest files with a view of it besides.
    fn persistent(&mut self, id: Value<'p>) -> Result<()> {
        let id = self.tree.tuple(id).unwrap_or_default();
        let old =
            "a view of a storage is stored as only PyTorch before 0.4 did; load it there, and save it again";
        let storage = match *id {
            [Value::Text("storage"), class, Value::Text(key), _, Value::Int(numel), ref view @ ..] => {
                if !matches!(view, [] | [Value::None]) {
                    return Err(Error::unsupported(old));
                }
                let element = match self.tree.global(class) {
                    Some(Global::Storage(element)) => Some(element),
                    Some(Global::Foreign { name, .. }) => Some(Element::Foreign(name)),
                    _ => None,
                };
                let numel = usize::try_from(numel).ok();
                element.zip(numel).map(|(element, numel)| Storage { key, element, numel })
            }
            [Value::Text("module"), ..] => {
                return Err(Error::unsupported(
                    "the file holds a whole model with its Python code, which is not run; save the model's \
                     state_dict() instead",
                ));
            }
            _ => None,
        };
        match storage {
            Some(storage) => self.push_node(Node::Storage(storage)),
            None => Err(self.broken("a storage is not described as torch.save does")),
        }
    }
}

/// LONG1's bytes as the smallest value that holds them.
fn integer(long: &[u8]) -> Value<'_> {
    if long.len() > 8 {
        return Value::Long(long);
    }
    let negative = long.last().is_some_and(|last| *last >= 0x80);
    let mut bytes = [if negative { 0xff } else { 0 }; 8];
    bytes[..long.len()].copy_from_slice(long);
    Value::Int(i64::from_le_bytes(bytes))
}

fn dotted(module: &str, name: &str) -> String {
    format!("{}.{}", short(module, 60), short(name, 60))
}

/// What is said of a call that doesn't make a tensor.
fn refuse_call(module: &str, name: &str) -> Error {
    Error::unsupported(format!(
        "the file asks to call {}, which no plain state dict does; nothing was run. Don't load it with other programs \
         unless you trust where it is from; get it as safetensors, or with nothing but its tensors",
        dotted(module, name)
    ))
}
